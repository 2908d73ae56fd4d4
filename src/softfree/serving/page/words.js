// What the numbers of an answer mean, in plain words. Pure functions: no page, no requests.

/** A probability as a percentage, without pretending to be certain. */
export function percent(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "no value";
  const hundred = value * 100;
  if (hundred > 0 && hundred < 0.1) return "<\u00a00.1\u00a0%";
  if (hundred < 100 && hundred > 99.9) return ">\u00a099.9\u00a0%";
  return `${hundred.toFixed(hundred >= 99.95 || hundred === 0 ? 0 : 1)}\u00a0%`;
}

/** A number with four significant digits. */
export const number = (value) =>
  value === null || value === undefined ? "no value" : Number(Number(value).toPrecision(4)).toLocaleString("en");

/** "a", "a and b", "a, b and c". */
export function listed(names, word = "and") {
  if (names.length < 2) return names.join("");
  return `${names.slice(0, -1).join(", ")} ${word} ${names.at(-1)}`;
}

const quoted = (name) => `“${name}”`;

/** The answers within a row: one, or one for each target of a model of several. */
export function answersOf(row, model) {
  const single = Object.keys(row).some((key) => /^(p_|value$|risk$)/.test(key));
  if (single) return [{ name: "", row, thresholds: model.thresholds ?? {}, task: model.task }];
  const names = [...new Set(Object.keys(row).filter((key) => /\.(p_.*|value|risk)$/s.test(key)).map((key) => key.split(".")[0]))];
  return names.map((name) => {
    const part = (of) => Object.fromEntries(Object.entries(of ?? {}).filter(([key]) => key.startsWith(`${name}.`)).map(([key, value]) => [key.slice(name.length + 1), value]));
    const own = model.about?.targets?.[name] ?? {};
    return { name, row: part(row), thresholds: own.thresholds ?? part(model.thresholds), task: own.task ?? guess(part(row)) };
  });
}

function guess(row) {
  if ("value" in row) return "regression";
  if ("risk" in row) return "survival";
  return Object.keys(row).some((key) => key.startsWith("set_")) ? "multilabel" : "multiclass";
}

/** Names and probabilities of the classes, in the order of the model. */
export function probabilitiesOf(row) {
  return Object.keys(row).filter((key) => key.startsWith("p_")).map((key) => ({ name: key.slice(2), p: row[key] }));
}

/** The headline of an answer. */
export function headline(answer) {
  const { row, task } = answer;
  if ("value" in row) return number(row.value);
  if ("risk" in row) return `Risk ${number(row.risk)}`;
  if (!row.predicted) return task === "multilabel" ? "No finding" : "No class";
  return task === "multilabel" ? listed(row.predicted.split("; ")) : row.predicted;
}

/** Why the model says so: the probability, and the threshold that it was compared with. */
export function reason(answer, model) {
  const { row, thresholds, task } = answer;
  const classes = probabilitiesOf(row);
  if ("value" in row) {
    const unit = model.about?.unit ? ` ${model.about.unit}` : "";
    return row.low === null || row.low === undefined
      ? `The model predicts ${number(row.value)}${unit}.`
      : `The model predicts ${number(row.value)}${unit}; the true number is expected between ${number(row.low)} and ${number(row.high)}.`;
  }
  if ("risk" in row) return "A higher risk means that the event is expected earlier. It orders patients; it is not a probability.";
  if (task === "binary" && classes.length === 2) {
    const positive = classes[1];
    const threshold = thresholds[positive.name] ?? 0.5;
    const side = positive.p >= threshold ? "is at or above" : "is below";
    const origin = positive.name in thresholds ? ", chosen on validation images" : "";
    return `The probability of ${quoted(positive.name)} is ${percent(positive.p)}. That ${side} the threshold of ${percent(threshold)}${origin}, so the model says ${quoted(row.predicted)}.`;
  }
  if (task === "multilabel") {
    const count = classes.filter(({ name, p }) => p >= (thresholds[name] ?? 0.5)).length;
    return `${count} of ${classes.length} findings reach${count === 1 ? "es" : ""} the threshold that was chosen for ${count === 1 ? "it" : "each of them"} on validation images.`;
  }
  const own = classes.find(({ name }) => name === row.predicted);
  const how = task === "ordinal" ? "It is the middle of the probabilities over the ordered classes" : `It is the most probable of ${classes.length} classes`;
  return own ? `${how}, with a probability of ${percent(own.p)}.` : `${how}.`;
}

/** The plausible classes of a row: a list of names, or null without sets. */
export function plausible(row) {
  if (row.set === undefined || row.set === null || row.set === "") return null;
  return Array.isArray(row.set) ? row.set : JSON.parse(row.set);
}

/** What the conformal set says; null without one. */
export function setInWords(answer, model) {
  const { row } = answer;
  const coverage = answer.coverage ?? model.about?.coverage;
  const often = coverage
    ? ` Such sets contain the right class in ${percent(coverage).replace(".0", "")} of new cases of each class, if these resemble the validation images.`
    : "";
  const names = plausible(row);
  if (names !== null) {
    const said = !names.length ? "No class is plausible"
      : names.length === 1 ? `Only ${quoted(names[0])} is plausible`
      : `${listed(names.map(quoted))} are ${names.length === 2 ? "both" : "all"} plausible`;
    return `${said}.${often}`;
  }
  const states = Object.keys(row).filter((key) => key.startsWith("set_"));
  if (!states.length) return null;
  const of = (state) => states.filter((key) => row[key] === state).map((key) => key.slice(4));
  const parts = [];
  if (of("present").length) parts.push(`present: ${listed(of("present"))}`);
  if (of("uncertain").length) parts.push(`uncertain: ${listed(of("uncertain"))}`);
  if (of("absent").length) parts.push(`absent: ${listed(of("absent"))}`);
  return `Judged one by one, ${parts.join("; ")}.${often}`;
}

/** Warnings that must be read before the answer: the model abstains, or the image is unusual. */
export function warnings(row, answers, model) {
  const found = [];
  if (row.status && row.status !== "ok") return found;
  for (const { row: own, name } of answers) {
    if (own.abstain === true) {
      const names = plausible(own);
      const why = names === null
        ? "At least one finding is neither clearly present nor clearly absent."
        : names.length ? `More than one class is plausible: ${listed(names.map(quoted))}.` : "None of its classes is plausible.";
      found.push({ title: name ? `The model does not know about ${quoted(name)}` : "The model does not know", text: `${why} Do not use its answer; a person must decide.` });
    }
  }
  if (row.unusual === true) {
    found.push({
      title: "An unusual image",
      text: `It is unlike the images that the model was trained on: its distance from them is ${number(row.distance)}, where the usual ones stay below 1. The probabilities below may be wrong by more than they say.`,
    });
  }
  if (row.reason) found.push({ title: "Not everything could be read", text: row.reason });
  return found;
}

/** How usual the image is, if the model knows; null otherwise. */
export function usualInWords(row) {
  if (row.unusual === false) return `The image is within the range of the training images (distance ${number(row.distance)}; unusual above 1).`;
  return null;
}

/** How far the members of an ensemble disagree; null for a single model. */
export function disagreementInWords(answer) {
  const value = answer.row.disagreement;
  if (value === undefined || value === null) return null;
  const classes = probabilitiesOf(answer.row).length > 0;
  return classes
    ? `Its members' probabilities differ by ${percent(value)} (standard deviation).`
    : `Its members' answers differ by ${number(value)} (standard deviation).`;
}

/** Survival probabilities by horizon. */
export function horizons(row) {
  return Object.keys(row).filter((key) => key.startsWith("survival_")).map((key) => ({ horizon: key.slice(9), p: row[key] }));
}

const METRICS = { auroc: "AUROC", c_index: "C-index", mae: "mean absolute error", balanced_accuracy: "balanced accuracy" };

/** How good the model was on its test images, in one sentence; null if that is not known. */
export function performance(metrics) {
  for (const [key, title] of Object.entries(METRICS)) {
    const metric = metrics?.[key];
    if (metric?.value === undefined || metric.value === null) continue;
    const digits = key === "mae" ? number : (value) => Number(value).toFixed(3);
    const interval = metric.low === undefined || metric.low === null ? "" : `, 95 % interval ${digits(metric.low)} to ${digits(metric.high)}`;
    const size = metric.n ? `, ${Number(metric.n).toLocaleString("en")} images` : "";
    return `${title} ${digits(metric.value)} on images that it had not seen${interval}${size}`;
  }
  return null;
}

/** The size of what is shown, in words. */
export function sizeInWords(view) {
  if (view.kind === "volume") {
    const { axial, coronal, sagittal } = view.slices;
    const spacing = view.spacing.map((step) => number(step)).join(" × ");
    return `${sagittal} × ${coronal} × ${axial} voxels of ${spacing} mm`;
  }
  const size = `${view.source[0].toLocaleString("en")} × ${view.source[1].toLocaleString("en")} pixels`;
  if (!view.spacing) return size;
  const [down, across] = view.spacing;
  return view.kind === "slide" ? `${size} of ${number(across * 1000)} µm` : `${size} of ${number(down)} × ${number(across)} mm`;
}
