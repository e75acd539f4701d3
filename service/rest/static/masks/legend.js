// The labels (and tracks) of an answer with their colours; each can be muted, or shown alone.

import { byLabel, css, keyOf } from "./colours.js";

export class Legend {
  /** `list` is a <ul>; `onChange` is called after each click. */
  constructor(list, onChange) {
    Object.assign(this, { list, onChange, muted: new Set(), soloed: new Set(), entries: new Map() });
    this.isShown = this.isShown.bind(this);
  }

  isShown(mask) {
    const key = keyOf(mask);
    return this.soloed.size ? this.soloed.has(key) && !this.muted.has(key) : !this.muted.has(key);
  }

  clear() {
    this.list.replaceChildren();
    this.entries.clear();
    this.muted.clear();
    this.soloed.clear();
  }

  /** Add what is not yet listed. */
  add(masks, labels) {
    const added = masks.filter((mask) => !this.entries.has(keyOf(mask)));
    for (const mask of added) this.entries.set(keyOf(mask), this.#entry(mask, css(mask, labels)));
    if (added.length) this.list.append(...[...this.entries.values()].sort((one, other) => byLabel(labels)(one.mask, other.mask)));
  }

  /** Mark what sounds in the frame that is shown. */
  mark(frame) {
    const sounding = new Set(frame?.masks.map(keyOf));
    for (const [key, entry] of this.entries) entry.classList.toggle("silent", !sounding.has(key));
  }

  #entry(mask, colour) {
    const key = keyOf(mask);
    const entry = document.createElement("li");
    entry.mask = mask;
    entry.dataset.key = key;
    const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
    swatch.style.background = colour;
    const label = Object.assign(document.createElement("span"), { className: "label", textContent: key });
    entry.append(swatch, label, this.#button("Mute", key, this.muted), this.#button("Solo", key, this.soloed));
    return entry;
  }

  #button(text, key, set) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    button.setAttribute("aria-label", `${text} ${key}`);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      set.has(key) ? set.delete(key) : set.add(key);
      button.setAttribute("aria-pressed", String(set.has(key)));
      for (const [name, entry] of this.entries) entry.classList.toggle("hidden-label", !this.#isListed(name));
      this.onChange();
    });
    return button;
  }

  #isListed(key) { return this.soloed.size ? this.soloed.has(key) && !this.muted.has(key) : !this.muted.has(key); }
}
