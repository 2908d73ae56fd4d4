// Requests to this server. Nothing is asked of any other server.
// A server that wants a token gets it once, and gives a cookie for it.

import { el, freshId } from "./dom.js";

/** An answer of the server that is not what was asked for, in its own words. */
export class ServerError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

async function refused(response) {
  let message = `The server answered with status ${response.status}.`;
  let code = "";
  try {
    const body = await response.json();
    message = body.error ?? message;
    code = body.status ?? "";
  } catch {
    // not JSON: a proxy's page
  }
  return new ServerError(message, response.status, code);
}

async function ask(path, options = {}) {
  for (;;) {
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server cannot be reached. Is it still running?", 0, "unreachable");
    }
    if (response.status === 401) {
      await signOn();
      continue;
    }
    if (!response.ok) throw await refused(response);
    return response;
  }
}

export const getJson = async (path, options) => (await ask(path, options)).json();
export const getBlob = async (path, options) => (await ask(path, options)).blob();
export const getBuffer = async (path, options) => (await ask(path, options)).arrayBuffer();
export const remove = (path) => ask(path, { method: "DELETE" });

export async function postJson(path, body) {
  const response = await ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

/** Upload files; `onprogress` gets the share that is sent. Returns the parsed response. */
export function upload(path, form, onprogress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onprogress(event.loaded / event.total);
    });
    request.addEventListener("error", () => reject(new ServerError("The upload failed. Is the server still running?", 0, "unreachable")));
    request.addEventListener("abort", () => reject(new DOMException("canceled", "AbortError")));
    request.addEventListener("load", async () => {
      if (request.status === 401) {
        await signOn();
        upload(path, form, onprogress, signal).then(resolve, reject);
      } else if (request.status >= 200 && request.status < 300) {
        resolve(request.response);
      } else {
        const body = request.response ?? {};
        const message = body.error ?? `The server answered with status ${request.status}.`;
        reject(new ServerError(message, request.status, body.status ?? ""));
      }
    });
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Ask for the state of a job until it has ended; `onstate` gets each. */
export async function follow(jobId, onstate, signal) {
  let pause = 150;
  for (;;) {
    const state = await getJson(`v1/jobs/${jobId}`, { signal });
    onstate(state);
    if (!["queued", "running"].includes(state.state)) return state;
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 1.4, 2000);
  }
}

let asking = null;

/** Show a dialog for the token until the server has accepted one. */
function signOn() {
  asking ??= new Promise((resolve) => {
    const id = freshId("token");
    const input = el("input", { type: "password", id, autocomplete: "off", required: true, "aria-describedby": `${id}-words` });
    const words = el("p", { id: `${id}-words`, role: "status" }, "This server asks for a token. Its operator has given you one.");
    const form = el(
      "form",
      { method: "dialog", class: "dialog-form" },
      el("h2", { id: `${id}-title` }, "Sign on"),
      words,
      el("label", { for: id }, "Token"),
      input,
      el("div", { class: "buttons" }, el("button", { type: "submit", class: "primary" }, "Continue")),
    );
    const dialog = el("dialog", { "aria-labelledby": `${id}-title` }, form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const response = await fetch("v1/session", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ token: input.value.trim() }),
      }).catch(() => null);
      if (!response?.ok) {
        words.textContent = response?.status === 401 ? "That token was not accepted. Try again." : "The server did not answer. Try again.";
        input.select();
        return;
      }
      dialog.remove();
      asking = null;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
    input.focus();
  });
  return asking;
}
