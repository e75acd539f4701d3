// The clips of this page: a few are sent at once, each has a card that shows how far it is.

const MAX_RUNNING = 4; // browsers open six connections to a host

export class Results {
  /** `list` is a <ul>; `onChoose(result)` and `onChange(result)` are called when one is chosen or new about it is known. */
  constructor(list, { headers, onChoose, onChange }) {
    Object.assign(this, { list, headers, onChoose, onChange, all: [], chosen: null });
  }

  add(result, { isChosen }) {
    this.all.push(result);
    this.list.append(this.#card(result));
    result.addEventListener("change", () => this.#onChange(result));
    this.#onChange(result);
    if (isChosen) this.choose(result);
    this.#runNext();
  }

  choose(result) {
    this.chosen = result;
    for (const other of this.all) {
      other.card.classList.toggle("chosen", other === result);
      other.card.querySelector(".choose").setAttribute("aria-current", String(other === result));
    }
    this.onChoose(result);
  }

  remove(result) {
    const at = this.all.indexOf(result);
    this.all.splice(at, 1);
    result.card.remove();
    result.forget();
    if (this.chosen === result) this.choose(this.all[Math.min(at, this.all.length - 1)] ?? null);
    else this.onChange(result);
    this.#runNext();
  }

  #runNext() {
    const numRunning = this.all.filter((result) => result.state === "running").length;
    const next = this.all.filter((result) => result.state === "waiting").slice(0, Math.max(0, MAX_RUNNING - numRunning));
    for (const result of next) result.run(this.headers());
  }

  #onChange(result) {
    const { card } = result;
    card.className = `${result.state}${result === this.chosen ? " chosen" : ""}`;
    card.querySelector(".message").textContent = result.message;
    const track = card.querySelector("progress");
    track.hidden = result.isOver || result.state === "waiting";
    if (result.progress === null) track.removeAttribute("value");
    else track.value = result.progress;
    card.querySelector(".drop").setAttribute("aria-label", `${result.isOver ? "Remove" : "Stop"} ${result.name}`);
    this.onChange(result);
    if (result.isOver) this.#runNext();
  }

  #card(result) {
    const card = document.createElement("li");
    const choose = Object.assign(document.createElement("button"), { type: "button", className: "choose" });
    const parts = [["b", "", result.name], ["span", "", result.settings], ["span", "message", result.message]];
    choose.append(...parts.map(([tag, className, textContent]) => Object.assign(document.createElement(tag), { className, textContent })));
    choose.addEventListener("click", () => this.choose(result));
    const drop = Object.assign(document.createElement("button"), { type: "button", className: "drop", textContent: "×" });
    drop.addEventListener("click", () => (result.isOver ? this.remove(result) : result.stop()));
    const track = Object.assign(document.createElement("progress"), { className: "track", max: 1 });
    track.setAttribute("aria-label", `Progress of ${result.name}`);
    card.append(choose, drop, track);
    result.card = card;
    return card;
  }
}
