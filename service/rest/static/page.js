// The page: settings, clips, tabs. The viewer and the camera have their own files.

import { Result } from "./clips/answer.js";
import { Live } from "./live/live.js";
import { Results } from "./clips/results.js";
import { Viewer } from "./viewer/viewer.js";
import { plainWords } from "./words.js";

const byId = (id) => document.getElementById(id);
const FIELDS = ["fps", "threshold", "labels", "min_area", "size", "instances"];
let waiting = []; // files that were chosen and not sent yet

function say(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

/** The API key is kept for this tab only. */
byId("key").value = sessionStorage.getItem("key") ?? "";
byId("key").addEventListener("change", () => sessionStorage.setItem("key", byId("key").value.trim()));
const apiKey = () => byId("key").value.trim();
const headers = () => (apiKey() ? { Authorization: `Bearer ${apiKey()}` } : {});

const viewer = new Viewer({ say, headers, onBlind: () => tell(results.chosen) });
const results = new Results(byId("results"), {
  headers,
  onChoose(result) {
    viewer.show(result);
    fillCompare();
    tell(result);
  },
  onChange(result) {
    if (result === viewer.result || result === viewer.other.result) viewer.refresh();
    if (result === results.chosen) tell(result);
    fillCompare();
  },
});
new Live({ apiKey });

function tell(result) {
  if (!result) return say("");
  const next = viewer.stage.isBlind ? "Move along the timeline." : "Play the clip.";
  say(result.state === "done" ? `${result.message}. ${next}` : result.message, result.state === "failed");
  if (result.problem?.code === "unauthenticated") byId("more").open = true;
}

function fields() {
  return Object.fromEntries(FIELDS.map((name) => [name, byId(name).value.trim()]).filter(([, value]) => value));
}

/** Other answers that the shown one can be compared with. */
function fillCompare() {
  const select = byId("compare");
  const shown = viewer.other.result;
  const others = results.all.filter((result) => result !== results.chosen && (result.frames.length || result === shown));
  if (shown && !others.includes(shown)) viewer.compare(null);
  const wanted = others.map((result) => `${result.id}`).join();
  if (select.dataset.ids !== wanted) {
    select.dataset.ids = wanted;
    const options = others.map((result) => new Option(`${result.name}: ${result.settings}`, result.id));
    select.replaceChildren(new Option("nothing", ""), ...options);
  }
  select.value = viewer.other.result?.id ?? "";
}

byId("compare").addEventListener("change", (event) => {
  viewer.compare(results.all.find((result) => String(result.id) === event.target.value) ?? null);
});

byId("compare-threshold").addEventListener("click", () => {
  const input = byId("other-threshold");
  const { result } = viewer;
  if (!input.reportValidity() || !result) return;
  const other = new Result(result.file, { ...result.fields, threshold: input.value || input.placeholder });
  results.add(other, { isChosen: false });
  viewer.compare(other);
  fillCompare();
});

function choose(files) {
  waiting = [...files];
  if (!waiting.length) return;
  const megabytes = waiting.reduce((sum, file) => sum + file.size, 0) / 1e6;
  const names = waiting.length === 1 ? waiting[0].name : `${waiting.length} files`;
  byId("drop-text").textContent = `${names} (${megabytes.toFixed(1)} MB)`;
  byId("go").disabled = false;
  say("");
}

function start(files) {
  files.forEach((file, at) => results.add(new Result(file, fields()), { isChosen: at === 0 }));
}

const drop = byId("drop");
byId("file").addEventListener("change", (event) => choose(event.target.files));
for (const kind of ["dragover", "dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") {
      choose(event.dataTransfer.files);
      byId("form").requestSubmit();
    }
  });
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  start(waiting);
});

byId("example").addEventListener("click", async () => {
  try {
    const answer = await fetch(new URL("example.mp4", import.meta.url));
    if (!answer.ok) throw new Error("The example clip is not there.");
    start([new File([await answer.blob()], "example.mp4", { type: "video/mp4" })]);
  } catch (problem) {
    say(plainWords(problem), true);
  }
});

const tabs = [...document.querySelectorAll("[role=tab]")];
for (const tab of tabs) {
  tab.addEventListener("click", () => {
    for (const other of tabs) {
      other.setAttribute("aria-selected", String(other === tab));
      other.tabIndex = other === tab ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = other !== tab;
    }
    if (tab.id !== "tab-clips") viewer.stage.video.pause();
  });
  tab.addEventListener("keydown", (event) => {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    const next = tabs[(tabs.indexOf(tab) + 1) % tabs.length];
    next.focus();
    next.click();
  });
}
