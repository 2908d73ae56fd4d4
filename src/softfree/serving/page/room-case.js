// A case of the reading room: its image, what the model says, and the form of the reading.

import { getJson, postJson } from "./api.js";
import { bars, mapLegend } from "./answer.js";
import { el, fill, freshId, slider } from "./dom.js";
import { LabelFields } from "./room-labels.js";
import { answersOfCase, hasOnlyNumbers, labelsInWords, labelsOf, truthOf } from "./room-words.js";
import { Viewer } from "./viewer.js";
import { disagreementInWords, headline, percent, reason, setInWords, usualInWords, warnings } from "./words.js";

/** Shows one case after the other in an element. */
export class CaseView {
  constructor(root, { list, go, changed }) {
    Object.assign(this, { root, list, go, changed, turn: 0 });
  }

  async open(row, room, reader, { before, after }) {
    const turn = (this.turn += 1);
    Object.assign(this, { row, room, reader, after });
    this.case = await getJson(this.address(""));
    if (turn !== this.turn) return;
    document.title = `Row ${row} – softfree`;
    this.stage = el("div", { class: "stage-holder" });
    this.side = el("div", { class: "answer-column" });
    fill(
      this.root,
      el(
        "div",
        { class: "case-head" },
        el("button", { type: "button", onclick: this.list }, "All cases"),
        el("h1", { id: "case-title", tabIndex: -1 }, `Row ${row}`),
        el("button", { type: "button", class: "step", "aria-label": "Previous case", title: "Previous case", disabled: before === null, onclick: () => this.go(before) }, "‹"),
        el("button", { type: "button", class: "step", "aria-label": "Next case", title: "Next case", disabled: after === null, onclick: () => this.go(after) }, "›"),
      ),
      el("div", { class: "work" }, el("div", { class: "stage-column" }, this.stage), this.side),
    );
    this.root.querySelector("h1").focus({ preventScroll: true });
    scrollTo(0, 0);
    this.startClock();
    this.viewer?.close();
    this.viewer = new Viewer(this.stage, { reader });
    this.showSide();
    try {
      this.view = await this.viewer.open(`v1/cases/${row}`);
    } catch (error) {
      fill(this.stage, el("div", { class: "stage empty" }, el("p", {}, error.message)));
    }
    if (turn === this.turn && this.case.uncovered) this.addMap(turn);
  }

  address(path) {
    return `v1/cases/${this.row}${path}?${new URLSearchParams({ reader: this.reader })}`;
  }

  close() {
    this.turn += 1;
    this.viewer?.close();
    this.viewer = null;
    this.root.replaceChildren();
  }

  /** Time that the case is looked at; it stands still while the tab is hidden. */
  startClock() {
    this.seconds = 0;
    this.since = performance.now();
    this.tick ??= document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.seconds += (performance.now() - this.since) / 1000;
      this.since = performance.now();
    }) ?? true;
  }

  elapsed() {
    return this.seconds + (document.hidden ? 0 : (performance.now() - this.since) / 1000);
  }

  async addMap(turn) {
    const model = await this.served();
    if (!model.explains || turn !== this.turn) return;
    try {
      let now = await postJson(this.address("/map"), {});
      while (["queued", "running"].includes(now.state) && turn === this.turn) {
        this.mapNote.textContent = "The map is being made…";
        await new Promise((resolve) => setTimeout(resolve, 700));
        now = await getJson(this.address("/map"));
      }
      if (turn !== this.turn) return;
      this.mapNote.textContent = now.state === "done" ? "" : `No map: ${now.note}`;
      if (now.state === "done") this.view = await this.viewer.refreshMap();
      fill(this.legend, mapLegend(this.view), this.room.study && this.case.split === "out of fold"
        ? el("p", { class: "fine" }, "The map is that of the whole ensemble; all but one of its members were trained on this case. The probabilities are those of the member that was not.") : null);
    } catch (error) {
      if (turn === this.turn) this.mapNote.textContent = `No map: ${error.message}`;
    }
  }

  async served() {
    this.models ??= await getJson("v1/models");
    return this.models.find((model) => model.name === this.room.model);
  }

  showSide() {
    this.mapNote = el("p", { class: "fine", role: "status" });
    this.legend = el("div", { class: "legend-holder" });
    const { uncovered } = this.case;
    fill(this.side, uncovered ? this.modelCard() : null, this.form(), uncovered ? [this.mapNote, this.legend] : null, this.facts());
  }

  modelCard() {
    const found = this.case;
    if (found.status !== "ok") return el("div", { class: "callout bad" }, el("h2", {}, "This could not be read"), el("p", {}, found.reason));
    const answers = answersOfCase(this.room, found);
    return [
      warnings(found, answers, { about: {} }).map(({ title, text }) => el("div", { class: "callout warn" }, el("h2", {}, title), el("p", {}, text))),
      answers.map((answer, index) => this.answerCard(answer, index === answers.length - 1 ? usualInWords(found) : null)),
      answers.length ? null : el("p", { class: "fine" }, "The model has no held-out answer for this case."),
    ];
  }

  answerCard(answer, usual) {
    const words = [setInWords(answer, { about: {} }), disagreementInWords(answer), usual];
    return el(
      "section",
      { class: "card", "aria-label": answer.name ? `The model: ${answer.name}` : "The model" },
      el("p", { class: "eyebrow" }, answer.name || "The model says"),
      el("h2", { class: "headline" }, headline(answer)),
      answer.task === "regression" ? el("p", { class: "why" }, reason(answer, { about: {} })) : null,
      bars(answer),
      words.filter(Boolean).map((one) => el("p", { class: "fine" }, one)),
    );
  }

  facts() {
    const { columns, views } = this.case;
    const known = Object.entries(columns).filter(([, value]) => value);
    const labels = this.room.blinded ? [] : labelsOf(this.room, truthOf(this.room, this.case));
    if (!known.length && !labels.length && !views.length) return null;
    return el("dl", { class: "compare card" },
      labels.map(({ name, words }) => [el("dt", {}, name ? `${name} in the table` : "Label in the table"), el("dd", {}, words)]),
      known.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
      views.length ? [el("dt", {}, "Views"), el("dd", {}, views.join(", "))] : null);
  }

  form() {
    return this.room.blinded ? this.blindedForm() : this.reviewForm();
  }

  reviewForm() {
    const last = this.case.readings.review;
    const truth = truthOf(this.room, this.case);
    const what = hasOnlyNumbers(this.room) ? "number" : "label";
    const choice = (value, words) => radio("decision", value, words, last?.decision === value);
    const label = new LabelFields(this.room, `New ${what}`, last?.decision === "relabel" ? last.label : null, truth);
    label.node.hidden = last?.decision !== "relabel";
    const form = this.frame(
      `Do you agree with the ${what}${this.room.targets.length > 1 ? "s" : ""}?`,
      el("fieldset", { onchange: () => { label.node.hidden = form.elements.decision.value !== "relabel"; } },
        el("legend", {}, `The table says: ${labelsInWords(this.room, truth)}`),
        choice("agree", "I agree"),
        choice("disagree", `I disagree, without a better ${what}`),
        choice("relabel", what === "number" ? "I would give another number" : "I would label it otherwise")),
      label.node,
      last,
      () => ({ decision: form.elements.decision.value, label: form.elements.decision.value === "relabel" ? label.read() : null }),
    );
    return form;
  }

  blindedForm() {
    const { alone, with_model: withModel } = this.case.readings;
    const last = withModel ?? alone;
    const isNumber = hasOnlyNumbers(this.room);
    const title = !alone ? "What do you see?" : withModel ? "Your decision with the model" : "And with the model?";
    const label = new LabelFields(this.room, isNumber ? "Your number" : "Your label", last?.label ?? null, null);
    const sure = isNumber ? null : slider({
      label: "How sure are you?", min: 0, max: 100, step: 1, value: Math.round(100 * (last?.confidence ?? 0.5)),
      words: (value) => `${value}\u00a0% – ${value < 15 ? "a guess" : value < 45 ? "unsure" : value < 75 ? "fairly sure" : value < 95 ? "sure" : "certain"}`,
      oninput: () => {},
    });
    const before = alone && !withModel
      ? `You said ${labelsInWords(this.room, alone.label)}${isNumber ? "" : ` (${percent(alone.confidence)} sure)`} before you saw the model. Both decisions are kept.` : null;
    return this.frame(
      title,
      label.node,
      [sure?.field, before && el("p", { class: "fine" }, before)],
      last,
      () => ({ decision: "label", label: label.read(), confidence: sure ? Number(sure.input.value) / 100 : null }),
    );
  }

  /** The frame of both forms: title, fields, note, button. */
  frame(title, first, second, last, read) {
    const noteId = freshId("note");
    const status = el("p", { class: "status", role: "status", "aria-live": "polite" });
    if (last && (this.case.done || !this.room.blinded)) status.textContent = `You decided on ${last.at.slice(0, 16).replace("T", " at ")} (UTC). You may decide again.`;
    const form = el(
      "form",
      { class: "card reading", "aria-label": title },
      el("h2", {}, title),
      first,
      second,
      el("div", { class: "field" }, el("label", { for: noteId }, "Note (optional)"), el("textarea", { id: noteId, name: "note", maxLength: 2000 })),
      status,
      el("div", { class: "buttons" }, el("button", { type: "submit", class: "primary" }, "Save")),
    );
    form.elements.note.value = last?.note ?? "";
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.save(form, status, read);
    });
    return form;
  }

  async save(form, status, read) {
    const button = form.querySelector("[type=submit]");
    const turn = this.turn;
    const wasCovered = !this.case.uncovered;
    button.disabled = true;
    try {
      const given = { ...read(), note: form.elements.note.value, seconds: Math.round(10 * this.elapsed()) / 10 };
      const found = await postJson(this.address("/readings"), given);
      if (turn !== this.turn) return;
      this.case = found;
      this.changed();
      this.startClock();
      this.showSide();
      this.saved();
      if (wasCovered && found.uncovered) this.addMap(turn);
      else if (this.view?.map) fill(this.legend, mapLegend(this.view));
    } catch (error) {
      status.textContent = error.message;
      button.disabled = false;
    }
  }

  saved() {
    const form = this.side.querySelector("form");
    const isDone = this.case.done;
    fill(form.querySelector(".status"), el("span", { class: "saved" }, isDone ? "Saved." : "Saved. The model is shown now: decide again, or save the same."));
    if (isDone && this.after !== null) form.querySelector(".buttons").append(el("button", { type: "button", onclick: () => this.go(this.after) }, "Next case"));
    (isDone ? form.querySelector(".buttons button:last-child") : this.side.querySelector(".headline"))?.scrollIntoView({ block: "nearest" });
    form.querySelector(isDone ? ".buttons button:last-child" : "input")?.focus({ preventScroll: true });
  }
}

function radio(name, value, words, checked) {
  return el("label", { class: "choice" }, el("input", { type: "radio", name, value, checked, required: true }), words);
}
