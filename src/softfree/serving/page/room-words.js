// Labels and answers of the reading room, in words.

import { listed, number } from "./words.js";

/** A label in words: a class, a number, or the findings that are present. */
export function labelInWords(label) {
  if (label === null || label === undefined) return "";
  if (typeof label === "string") return label;
  if (typeof label === "number") return number(label);
  const present = Object.entries(label).filter(([, value]) => value === 1).map(([name]) => name);
  return present.length ? listed(present) : "no finding";
}

/** The labels that are given for the targets of a room: a list of { name, words }, the name empty for a single target. */
export function labelsOf(room, label) {
  if (label === null || label === undefined) return [];
  if (!isSeveral(room)) return [{ name: "", words: labelInWords(label) }];
  return room.targets.filter(({ name }) => label[name] !== undefined && label[name] !== null).map(({ name }) => ({ name, words: labelInWords(label[name]) }));
}

/** The same on one line. */
export const labelsInWords = (room, label) => labelsOf(room, label).map(({ name, words }) => (name ? `${name}: ${words}` : words)).join("; ");

/** Whether a room has several targets. */
export const isSeveral = (room) => room.targets[0].name !== "";

/** Whether all that is decided in a room are numbers. */
export const hasOnlyNumbers = (room) => room.targets.every(({ task }) => task === "regression");

/** The labels of the table: one, or those of several targets by name. */
export function truthOf(room, one) {
  if (!isSeveral(room)) return one.answers[""].truth;
  return Object.fromEntries(room.targets.map(({ name }) => [name, one.answers[name].truth]));
}

/** The model's answers that are known, as words.js takes them; out-of-fold cases have thresholds of their own. */
export function answersOfCase(room, one) {
  return room.targets.filter(({ name }) => one.answers[name].row).map((target) => {
    const { row } = one.answers[target.name];
    const own = Object.entries(row).filter(([key]) => key.startsWith("threshold_")).map(([key, value]) => [key.slice(10), value]);
    return { ...target, thresholds: { ...target.thresholds, ...Object.fromEntries(own) }, row };
  });
}
