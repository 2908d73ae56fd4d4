// Elements without a framework.

/** Make an element: properties that start with "on" are listeners, "aria-" and "data-" attributes are set as such. */
export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else if (key === "for") node.htmlFor = value;
    else if (key.includes("-") || key === "role" || key === "scope") node.setAttribute(key, value === true ? "" : value);
    else node[key] = value;
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const byId = (id) => document.getElementById(id);

/** Replace the children of a node. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
}

let count = 0;
/** Return an id that no other element has. */
export const freshId = (stem) => `${stem}-${(count += 1)}`;

/** Call a function at most once in some milliseconds, with the last arguments. */
export function throttled(milliseconds, call) {
  let timer = null;
  let last = null;
  return (...given) => {
    last = given;
    timer ??= setTimeout(() => {
      timer = null;
      call(...last);
    }, milliseconds);
  };
}

/** A labeled slider with its value in words; returns the field and the input. */
export function slider({ label, min, max, step, value, words, oninput }) {
  const id = freshId("slider");
  const output = el("output", { for: id, class: "value" }, words(value));
  const input = el("input", { type: "range", id, min, max, step, "aria-valuetext": words(value) });
  input.value = value;
  input.addEventListener("input", () => {
    tell();
    oninput(Number(input.value));
  });
  function tell() {
    const text = words(Number(input.value));
    output.value = text;
    input.setAttribute("aria-valuetext", text);
  }
  const field = el("div", { class: "slider" }, el("label", { for: id }, label), input, output);
  return { field, input, set(next) { input.value = next; tell(); } };
}

/** Offer text as a file to save. */
export function save(name, blob) {
  const url = URL.createObjectURL(blob);
  const link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
