// The page of a model that translates: a text, and its translation as it comes.

import { read } from "./litert_web.mjs";
import { Translator } from "./translator.mjs";

const element = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });

function refuse(error) {
  element("problem").textContent = error?.message ?? "";
  element("problem").hidden = !error;
}

function counts({ sourceTokens, sourceMs, tokens, ms }) {
  const perSecond = tokens > 1 ? ` · ${number((1000 * tokens) / (ms - sourceMs))} tokens a second` : "";
  return `${number(tokens)} tokens${perSecond} · text of ${number(sourceTokens)} in ${number(sourceMs)} ms`;
}

async function write(translator, signal) {
  element("written").textContent = "";
  element("counts").textContent = "";
  const source = element("source").value;
  if (!source.trim()) throw new Error("The text is empty.");
  element("text").setAttribute("aria-busy", "true"); // Read out once it is whole.
  try {
    for await (const part of translator.translate(source, { signal })) {
      element("written").append(part.text);
      if (part.tokens !== undefined) element("counts").textContent = counts(part);
    }
  } finally {
    element("text").setAttribute("aria-busy", "false");
  }
}

async function start() {
  const started = performance.now();
  const translator = await Translator.load(await read("./web.json", "json"));
  element("counts").textContent = `Ready, loaded in ${number(performance.now() - started)} ms.`;
  element("go").disabled = false;
  let writing = null;
  const stop = () => writing?.abort();
  element("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (writing) return stop();
    writing = new AbortController();
    element("go").textContent = "Stop";
    refuse(null);
    try {
      await write(translator, writing.signal);
    } catch (error) {
      refuse(error);
    } finally {
      writing = null;
      element("go").textContent = "Translate";
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !writing) element("form").requestSubmit();
  });
  globalThis.translator = translator; // For the browser's console.
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  element("counts").textContent = "";
  refuse(error);
});
