// The image with its map and the controls below it, whatever kind of sample it is.

import { getJson } from "./api.js";
import { el, fill, slider, throttled } from "./dom.js";
import { ImagePane, paneHolder } from "./pane-image.js";
import { canDrawVolumes, VolumePane } from "./pane-volume.js";
import { number, percent, sizeInWords } from "./words.js";

const OPACITY = 0.6;

/** Builds a viewer into an element; a new sample takes the place of the old one. */
export class Viewer {
  /** `extra` is added to the query of every request. */
  constructor(root, extra = {}) {
    this.root = root;
    this.extra = extra;
    this.pane = null;
    this.turn = 0;
  }

  /** Show the sample below an address. Returns the description of what is shown, or null if another came first. */
  async open(base, { part = 0 } = {}) {
    const turn = (this.turn += 1);
    const view = await getJson(`${base}/view${query({ part, ...this.extra })}`);
    if (turn !== this.turn) return null;
    this.close();
    Object.assign(this, { base, view, part, window: null, plane: "axial", numbers: null, opacity: OPACITY });
    this.holder = paneHolder("Image");
    this.controls = el("div", { class: "controls" });
    fill(this.root, el("div", { class: "stage" }, this.holder, this.buttons()), this.controls);
    if (view.kind === "volume" && canDrawVolumes()) this.pane = await VolumePane.open(this.holder);
    else this.pane = new ImagePane(this.holder);
    if (view.kind === "volume") this.startSlices();
    await this.draw();
    if (turn !== this.turn) return null;
    this.drawControls();
    if (view.map) await this.addMap(view);
    return view;
  }

  get isVolumePane() {
    return this.pane instanceof VolumePane;
  }

  /** Fetch the map that has been made since the image was opened. */
  async refreshMap() {
    const turn = this.turn;
    const view = await getJson(`${this.base}/view${query({ part: this.part, now: Date.now(), ...this.extra })}`);
    if (turn !== this.turn || !view.map) return view;
    this.view = view;
    await this.addMap(view);
    return view;
  }

  async addMap(view) {
    if (this.isVolumePane) {
      await this.pane.showMap(this.base, view, query(this.extra));
      this.pane.setOpacity(this.opacity);
    } else await this.pane.showMap(this.base, view, this.mapQuery());
    if (view.map.strongest) for (const [plane, chosen] of Object.entries(view.map.strongest)) this.goTo(plane, chosen);
    this.drawControls();
  }

  async draw() {
    if (this.isVolumePane) await this.pane.show(this.base, this.view);
    else await this.pane.show(this.base, this.view, this.imageQuery());
  }

  imageQuery() {
    const shown = this.window && { window: this.window.high - this.window.low, level: (this.window.high + this.window.low) / 2 };
    return query({ part: this.part, ...shown, ...this.sliceQuery(), ...this.extra });
  }

  mapQuery() {
    return query({ part: this.part, ...this.sliceQuery(), ...this.extra });
  }

  sliceQuery() {
    return this.view.kind === "volume" ? { axis: this.plane, slice: this.numbers[this.plane] } : {};
  }

  startSlices() {
    this.numbers = Object.fromEntries(Object.entries(this.view.slices).map(([plane, count]) => [plane, count >> 1]));
    this.sliders = {};
    this.plane = this.isVolumePane ? "all" : "axial";
    if (this.isVolumePane) this.pane.onmove = () => this.followCrosshair();
  }

  followCrosshair() {
    this.numbers = this.pane.slices();
    for (const [plane, one] of Object.entries(this.sliders)) one.set(this.numbers[plane]);
  }

  goTo(plane, chosen) {
    this.numbers[plane] = chosen;
    this.sliders?.[plane]?.set(chosen);
    if (this.isVolumePane) this.pane.setSlice(plane, chosen);
    else if (plane === this.plane) this.redraw();
  }

  redraw = throttled(60, () => {
    if (this.isVolumePane) {
      if (this.window) this.pane.setWindow(this.window.low, this.window.high);
      return;
    }
    this.pane.show(this.base, this.view, this.imageQuery()).catch(() => {});
    if (this.view.kind === "volume" && this.view.map) this.pane.showMap(this.base, this.view, this.mapQuery()).catch(() => {});
  });

  buttons() {
    const button = (label, sign, act) => el("button", { type: "button", class: "icon", "aria-label": label, title: label, onclick: act }, sign);
    return el(
      "div",
      { class: "zoom", role: "group", "aria-label": "Zoom" },
      button("Zoom in", "+", () => this.pane.zoom(1.4)),
      button("Zoom out", "−", () => this.pane.zoom(1 / 1.4)),
      button("Show all of it", "⤢", () => this.pane.fit()),
    );
  }

  drawControls() {
    fill(this.controls, this.mapControls(), this.planeControls(), this.windowControls(),
      el("p", { class: "fine size" }, sizeInWords(this.view), this.view.reduced > 1 ? `; shown with every ${ordinal(this.view.reduced)} voxel` : ""));
  }

  mapControls() {
    if (!this.view.map) return null;
    const { field } = slider({
      label: "Map", min: 0, max: 1, step: 0.05, value: this.opacity,
      words: (value) => (value === 0 ? "hidden" : percent(value).replace(".0", "")),
      oninput: (value) => {
        this.opacity = value;
        this.pane.setOpacity(value);
      },
    });
    field.classList.add("map-opacity");
    return field;
  }

  planeControls() {
    if (this.view.kind !== "volume") return null;
    const planes = this.isVolumePane ? ["all", "axial", "coronal", "sagittal"] : ["axial", "coronal", "sagittal"];
    const choose = el("div", { class: "segments", role: "group", "aria-label": "Plane" }, planes.map((name) =>
      el("button", { type: "button", "aria-pressed": String(name === this.plane), onclick: () => this.choosePlane(name) }, name === "all" ? "all planes" : name)));
    const shown = this.plane === "all" ? ["axial", "coronal", "sagittal"] : [this.plane];
    this.sliders = {};
    const fields = shown.map((plane) => {
      const count = this.view.slices[plane];
      const made = slider({
        label: `${plane[0].toUpperCase()}${plane.slice(1)} slice`, min: 0, max: count - 1, step: 1, value: this.numbers[plane],
        words: (value) => `${value + 1} of ${count}`,
        oninput: (value) => this.goTo(plane, value),
      });
      this.sliders[plane] = made;
      return made.field;
    });
    return [choose, fields];
  }

  choosePlane(name) {
    this.plane = name;
    if (this.isVolumePane) this.pane.setPlane(name);
    else {
      this.redraw();
      this.pane.fit();
    }
    this.drawControls();
    this.controls.querySelector('[aria-pressed="true"]').focus();
  }

  windowControls() {
    if (!this.view.gray) return null;
    const own = this.view.window;
    const range = own.greatest - own.least || 1;
    const step = own.whole ? 1 : range / 500;
    const now = this.window ?? own;
    const apply = (width, level) => {
      this.window = { low: level - width / 2, high: level + width / 2 };
      this.redraw();
    };
    const words = (value) => number(own.whole ? Math.round(value) : value);
    const width = slider({
      label: "Window", min: step, max: range * 1.5, step, value: now.high - now.low, words,
      oninput: (value) => apply(value, Number(level.input.value)),
    });
    const level = slider({
      label: "Level", min: own.least, max: own.greatest, step, value: (now.high + now.low) / 2, words,
      oninput: (value) => apply(Number(width.input.value), value),
    });
    const reset = el("button", { type: "button", class: "quiet", onclick: () => {
      width.set(own.high - own.low);
      level.set((own.high + own.low) / 2);
      apply(own.high - own.low, (own.high + own.low) / 2);
    } }, "As in the file");
    return el("div", { class: "window-level", role: "group", "aria-label": "Window and level" }, width.field, level.field, reset);
  }

  close() {
    this.pane?.close();
    this.pane = null;
    this.root.replaceChildren();
  }
}

function query(values) {
  const given = Object.entries(values).filter(([key, value]) => value !== undefined && value !== null && !(key === "part" && value === 0));
  const text = new URLSearchParams(given).toString();
  return text ? `?${text}` : "";
}

const ordinal = (value) => (value === 2 ? "second" : value === 3 ? "third" : `${value}th`);
