// The page of a model that writes: a prompt, and text as it comes.

import { Generator } from "./generator.mjs";
import { read } from "./litert_web.mjs";

const element = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });

function refuse(error) {
  element("problem").textContent = error?.message ?? "";
  element("problem").hidden = !error;
}

function showSliders() {
  for (const output of document.querySelectorAll("output")) output.value = Number(element(output.htmlFor.value).value).toFixed(2);
}

function counts({ promptTokens, promptMs, tokens, ms }) {
  const perSecond = tokens > 1 ? ` · ${number((1000 * (tokens - 1)) / (ms - promptMs))} tokens a second` : "";
  return `${number(tokens)} tokens${perSecond} · prompt of ${number(promptTokens)} in ${number(promptMs)} ms`;
}

async function write(generator, signal) {
  const prompt = element("prompt").value;
  element("given").textContent = prompt;
  element("written").textContent = "";
  element("text").setAttribute("aria-busy", "true"); // Read out once it is whole.
  let waiting = "";
  let painting = 0;
  const paint = () => {
    painting = 0;
    const { scrollHeight, scrollTop, clientHeight } = element("text");
    element("written").append(waiting);
    waiting = "";
    if (scrollHeight - scrollTop - clientHeight < 40) element("text").scrollTop = element("text").scrollHeight;
  };
  const options = {
    maxTokens: element("tokens").valueAsNumber,
    temperature: element("temperature").valueAsNumber,
    topP: element("top_p").valueAsNumber,
    signal,
  };
  try {
    for await (const part of generator.write(prompt, options)) {
      waiting += part.text;
      painting ||= requestAnimationFrame(paint);
      if (part.tokens !== undefined) element("counts").textContent = counts(part);
    }
  } finally {
    cancelAnimationFrame(painting);
    paint();
    element("text").setAttribute("aria-busy", "false");
  }
}

async function start() {
  showSliders();
  element("form").addEventListener("input", showSliders);
  const started = performance.now();
  const generator = await Generator.load(await read("./web.json", "json"));
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
      await write(generator, writing.signal);
    } catch (error) {
      refuse(error);
    } finally {
      writing = null;
      element("go").textContent = "Write";
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !writing) element("form").requestSubmit();
  });
  globalThis.generator = generator; // For the browser's console.
  document.documentElement.dataset.ready = "true";
}

start().catch((error) => {
  element("counts").textContent = "";
  refuse(error);
});
