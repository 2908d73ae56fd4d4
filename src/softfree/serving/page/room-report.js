// The numbers of the readings below the list.

import { getBlob, getJson } from "./api.js";
import { el, fill, save } from "./dom.js";
import { number } from "./words.js";

/** Buttons for exports, and the numbers when they are asked for: they take a few seconds. */
export function reportSection(root, room) {
  const numbers = el("div", { class: "found", "aria-live": "polite" });
  const show = el("button", { type: "button", onclick: async () => {
    show.disabled = true;
    fill(numbers, el("p", { class: "hint" }, "Computing…"));
    try {
      fill(numbers, await tables());
    } catch (error) {
      fill(numbers, el("p", { class: "error" }, error.message));
    }
    show.disabled = false;
  } }, "Compute the numbers");
  fill(root, el(
    "section",
    { class: "report", "aria-labelledby": "report-title" },
    el("h2", { id: "report-title" }, room.blinded ? "Reader study" : "Readings of all readers"),
    el("p", { class: "fine" }, room.blinded
      ? "How well the readers do without and with the model, how often they change their mind, and how long they take."
      : "The table with the readers’ labels goes back into training: save it beside the old table, then softfree train readings_table.csv."),
    el("div", { class: "buttons" },
      room.blinded ? null : download("Table with new labels (CSV)", "v1/readings.csv?form=table", "readings_table.csv"),
      download("All readings (CSV)", "v1/readings.csv?form=log", "readings_log.csv"),
      download("Report (HTML)", "v1/readings/report.html", "reading_report.html"),
      show),
    numbers,
  ));
}

function download(words, path, name) {
  const button = el("button", { type: "button", onclick: async () => {
    button.disabled = true;
    try {
      save(name, await getBlob(path));
      button.textContent = words;
    } catch (error) {
      button.textContent = error.message;
    }
    button.disabled = false;
  } }, words);
  return button;
}

async function tables() {
  const found = await getJson("v1/readings/report");
  if (!found.targets.some((target) => target.readers.length)) return el("p", { class: "hint" }, "No case has been read to the end yet.");
  return [
    found.targets.map((target) => [target.target ? el("h3", {}, target.target) : null, found.blinded ? studyTable(target) : reviewTable(target)]),
    found.notes.map((note) => el("p", { class: "fine" }, note)),
  ];
}

function reviewTable(found) {
  return table(["Reader", "Agree", "Disagree", "Relabel", "Median time"], found.readers.map((one) => [one.reader, one.agree, one.disagree, one.relabel, one.seconds === null ? "—" : `${one.seconds.toFixed(0)} s`]));
}

function studyTable(found) {
  if (!found.readers.length) return el("p", { class: "hint" }, "No case has been read to the end yet.");
  const rows = [...found.readers, ...(found.mean ? [{ ...found.mean, reader: `Mean of ${found.mean.readers}` }] : [])];
  const [name, words, ways] = found.metric === "mae"
    ? ["Mean error", number, ["nearer to the label", "farther from it"]]
    : ["AUROC", (value) => value.toFixed(3), ["to the right label", "away from it"]];
  const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${words(Math.abs(value))}`;
  const share = (value) => `${(100 * value).toFixed(0)}\u00a0%`;
  const time = (value) => `${value.toFixed(0)}\u00a0s`;
  return [
    el("p", {}, `${found.cases} cases of ${found.patients} patients. The model’s ${found.metric === "mae" ? "mean error" : name} on them: ${inLine(found.model, words)}. Below each number its 95\u00a0% interval.`),
    table(
      ["Reader", `${name} alone`, `${name} with the model`, "Difference", "Changed their mind", ...ways, "Time alone", "Time with the model"],
      rows.map((one) => [one.reader, interval(one.alone, words), interval(one.with_model, words), interval(one.difference, signed), interval(one.changed, share), one.to_right ?? "", one.to_wrong ?? "", interval(one.seconds_alone, time), interval(one.seconds_with_model, time)]),
      found.mean ? rows.length - 1 : -1,
    ),
  ];
}

function inLine(number, words) {
  if (number === null || number.value === null) return "—";
  return number.low === null ? words(number.value) : `${words(number.value)} (${words(number.low)} to ${words(number.high)})`;
}

function interval(number, words) {
  if (number === null || number.value === null) return "—";
  if (number.low === null) return words(number.value);
  return [words(number.value), el("span", { class: "fine" }, `${words(number.low)} to ${words(number.high)}`)];
}

function table(head, rows, bold = -1) {
  return el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": "Numbers" }, el(
    "table",
    { class: "numbers" },
    el("thead", {}, el("tr", {}, head.map((words) => el("th", { scope: "col" }, words)))),
    el("tbody", {}, rows.map(([first, ...others], index) => el("tr", { class: index === bold ? "mean" : "" }, el("th", { scope: "row" }, first), others.map((cell) => el("td", {}, Array.isArray(cell) ? cell : String(cell)))))),
  ));
}
