// Labels in words.

import { listed } from "./words.js";

/** A label in words: a class, or the findings that are present. */
export function labelInWords(label) {
  if (label === null || label === undefined) return "";
  if (typeof label === "string") return label;
  const present = Object.entries(label).filter(([, value]) => value === 1).map(([name]) => name);
  return present.length ? listed(present) : "no finding";
}
