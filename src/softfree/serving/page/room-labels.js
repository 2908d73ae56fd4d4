// The fields in which a reader gives a label: a class, findings, a number, or one of these for each target.

import { el, freshId } from "./dom.js";
import { isSeveral } from "./room-words.js";

/** Fields for the label of a case; `node` is what to show, `read()` what was chosen. */
export class LabelFields {
  /**
   * chosen: what was given before, or null. truth: the label of the table, null if it is hidden; then a label is
   * needed for each target, otherwise those that differ from the table's count.
   */
  constructor(room, title, chosen, truth) {
    this.several = isSeveral(room);
    this.truth = truth;
    this.fields = room.targets.map((target, index) => {
      const of = (label) => (this.several ? label?.[target.name] : label) ?? null;
      const start = of(chosen) ?? (this.several ? of(truth) : null);
      return { ...target, ...field(target, this.several ? `${title}: ${target.name}` : title, start, this.several ? null : truth, this.several ? `label-${index}` : "label") };
    });
    this.node = el("div", { class: "labels" }, this.fields.map(({ node }) => node));
  }

  /** What the reader chose; an Error says what is missing. */
  read() {
    if (!this.several) return this.fields[0].read();
    if (this.truth === null) return Object.fromEntries(this.fields.map((one) => [one.name, one.read()]));
    const changed = this.fields.filter((one) => one.isGiven() && JSON.stringify(one.read()) !== JSON.stringify(this.truth[one.name]));
    if (!changed.length) throw new Error("All labels are those of the table. Change one, or agree.");
    return Object.fromEntries(changed.map((one) => [one.name, one.read()]));
  }
}

function field(target, title, start, truth, name) {
  if (target.task === "multilabel") return findings(target, title, start ?? truth ?? {});
  if (target.task === "regression") return numberField(title, start);
  return classes(target, title, start, truth, name);
}

/** Radio buttons, without the class that the table has. */
function classes(target, title, start, truth, name) {
  const inputs = target.classes.filter((one) => one !== truth).map((one) => el("input", { type: "radio", name, value: one, checked: one === start }));
  const chosen = () => inputs.find((input) => input.checked)?.value;
  return {
    node: el("fieldset", {}, el("legend", {}, title), inputs.map((input) => el("label", { class: "choice" }, input, input.value))),
    isGiven: () => chosen() !== undefined,
    read() {
      if (chosen() === undefined) throw new Error(target.name ? `Choose a label for ${target.name} first.` : "Choose a label first.");
      return chosen();
    },
  };
}

/** For each finding a choice of present, absent and unknown. */
function findings(target, title, start) {
  const inputs = target.classes.map((finding) => {
    const now = start[finding] === 1 ? "1" : start[finding] === 0 ? "0" : "";
    const options = [["1", "present"], ["0", "absent"], ["", "unknown"]];
    return el("select", { id: freshId("finding"), "data-finding": finding }, options.map(([value, words]) => el("option", { value, selected: value === now }, words)));
  });
  return {
    node: el("fieldset", {}, el("legend", {}, title), inputs.map((input) =>
      el("div", { class: "finding" }, el("label", { for: input.id }, input.dataset.finding), input))),
    isGiven: () => true,
    read: () => Object.fromEntries(inputs.map((input) => [input.dataset.finding, input.value === "" ? null : Number(input.value)])),
  };
}

function numberField(title, start) {
  const input = el("input", { type: "number", id: freshId("number"), step: "any", inputMode: "decimal", autocomplete: "off", value: start ?? "" });
  return {
    node: el("div", { class: "field" }, el("label", { for: input.id }, title), input),
    isGiven: () => input.value !== "",
    read() {
      if (input.value === "" || !Number.isFinite(input.valueAsNumber)) throw new Error(`${title}: enter a number first.`);
      return input.valueAsNumber;
    },
  };
}
