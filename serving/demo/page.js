// The page keeps its settings in the address, so that a link draws the same pictures again.
const $ = (selector, within = document) => within.querySelector(selector);
const NUMBERS = ["count", "temperature", "top_k", "top_p", "guidance_scale", "seed"];
const SMALL = 96; // pixels below which a picture is shown with its pixels
const MANY_CLASSES = 24;

const settings = $("#settings");
let models;
let picture; // base64 of the file that is looked at

async function ask(path, options) {
  const answer = await fetch(`api/${path}`, options);
  if (!answer.ok) {
    const text = await answer.text();
    let message = text;
    try { message = JSON.parse(text).error; } catch { /* not from the demo itself */ }
    throw new Error(message || `${answer.status} ${answer.statusText}`);
  }
  return answer;
}

const post = (path, body, signal) => ask(path, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
});

const json = async (path, body) => (await post(path, body)).json();

// Yields what a streamed answer says, a line each.
async function* lines(path, body, signal) {
  const reader = (await post(path, body, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function say(output, text, bad = false) {
  output.textContent = text;
  output.classList.toggle("bad", bad);
}

function show(image, content, size, alt) {
  image.src = `data:image/png;base64,${content}`;
  image.classList.toggle("small", size < SMALL);
  image.alt = alt;
}

function framed(content, size, alt, caption, click) {
  const figure = document.createElement("figure");
  const button = document.createElement("button");
  const image = document.createElement("img");
  show(image, content, size, alt);
  button.type = "button";
  button.append(image);
  button.addEventListener("click", click);
  const text = document.createElement("figcaption");
  text.textContent = caption;
  figure.append(button, text);
  return figure;
}

// --- settings and the address

const classes = () => [...document.querySelectorAll("#classes input:checked")].map((one) => Number(one.value));

function sampling() {
  return Object.fromEntries(
    ["temperature", "top_k", "top_p", "guidance_scale", "seed"].map((name) => [name, settings[name].valueAsNumber]),
  );
}

function remember() {
  const kept = new URLSearchParams();
  if (classes().length) kept.set("class", classes().join(","));
  for (const name of NUMBERS) if (settings[name].value !== settings[name].defaultValue) kept.set(name, settings[name].value);
  if (settings.guidance_schedule.selectedIndex) kept.set("guidance_schedule", settings.guidance_schedule.value);
  history.replaceState(null, "", `#${kept}`);
}

function recall() {
  const kept = new URLSearchParams(location.hash.slice(1));
  for (const name of NUMBERS) settings[name].value = kept.has(name) ? kept.get(name) : settings[name].defaultValue;
  settings.guidance_schedule.value = kept.get("guidance_schedule") === "linear" ? "linear" : "constant";
  const wanted = new Set((kept.get("class") ?? "0").split(","));
  for (const one of document.querySelectorAll("#classes input")) one.checked = wanted.has(one.value);
}

// --- drawing

// Adds the pictures of a streamed answer to a grid as they come; the form's Stop ends it, also on the server.
async function draw(form, grid, path, body, captions) {
  const [stop, said, main] = [$(".stop", form), $(".said", form), $(".main", form)];
  if (main.ariaDisabled === "true") return; // not `disabled`, which takes the focus away
  const ending = new AbortController();
  const begin = performance.now();
  const total = captions.length;
  let count = 0;
  grid.replaceChildren();
  stop.hidden = false;
  stop.onclick = () => ending.abort();
  main.ariaDisabled = "true";
  say(said, `0 of ${total}`);
  try {
    for await (const line of lines(path, body, ending.signal)) {
      if (line.error) throw new Error(line.error);
      const { alt, caption } = captions[count];
      grid.append(framed(line.image, models.generator.image_size, alt, caption, () => look(line.image)));
      count += 1;
      const seconds = (performance.now() - begin) / 1000;
      say(said, count < total ? `${count} of ${total}` : `${total} picture${total === 1 ? "" : "s"} in ${seconds.toFixed(1)} s`);
    }
    if (count < total) throw new Error(`the connection ended after ${count} of ${total} pictures`);
  } catch (error) {
    if (error.name === "AbortError") say(said, `stopped at ${count} of ${total}`);
    else say(said, error.message, true);
  } finally {
    stop.hidden = true;
    main.ariaDisabled = "false";
  }
}

settings.addEventListener("submit", (event) => {
  event.preventDefault();
  remember();
  const chosen = classes();
  const known = models.generator.classes;
  const said = $(".said", settings);
  if (known.length && !chosen.length) return say(said, "choose a class", true);
  const seed = settings.seed.valueAsNumber;
  const ids = Array.from({ length: settings.count.valueAsNumber }, (_, row) => chosen[row % chosen.length] ?? 0);
  const captions = ids.map((id, row) => {
    const name = known[id] ?? "";
    return { alt: name ? `A drawn picture of class ${name}` : "A drawn picture", caption: `${name} ${name ? "· " : ""}seed ${seed + row}` };
  });
  const body = { class_ids: ids, sampling: { ...sampling(), guidance_schedule: settings.guidance_schedule.value } };
  return draw(settings, $("#drawn"), "generate", body, captions);
});
settings.addEventListener("change", remember);
addEventListener("hashchange", recall);
$("#dice").addEventListener("click", () => {
  settings.seed.value = Math.floor(Math.random() * 1e6);
  remember();
});
$("#copy").addEventListener("click", async () => {
  remember();
  try {
    await navigator.clipboard.writeText(location.href);
    say($(".said", settings), "link copied");
  } catch {
    say($(".said", settings), location.href);
  }
});
$("#filter").addEventListener("keydown", (event) => {
  if (event.key === "Enter") event.preventDefault(); // it would draw
});
$("#filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const label of document.querySelectorAll("#classes label")) {
    label.hidden = !label.textContent.toLowerCase().includes(wanted) && !$("input", label).checked;
  }
});

// --- tokens of a picture

async function read(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 32768) text += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(text);
}

async function look(content) {
  picture = content;
  const said = $("#tokens-said");
  const place = $("#tokenizers");
  say(said, "…");
  const usable = models.tokenizers.filter((one) => !one.error);
  const results = await Promise.allSettled(
    usable.map((one) => json("reconstruct", { image: content, tokenizer: one.name })),
  );
  if (picture !== content) return; // another one came meanwhile
  // Several tokenizers refuse the same file with the same words.
  const errors = [...new Set(results.filter((one) => one.status === "rejected").map((one) => one.reason.message))];
  say(said, errors.join(" · "), true);
  place.replaceChildren(...results.flatMap((one, index) => (one.value ? [compared(usable[index], one.value)] : [])));
  const none = results.every((one) => one.status === "rejected");
  $("#complete").hidden = none || typeof models.generator === "string";
  place.scrollIntoView({ behavior: "smooth", block: "nearest" });
}

// The picture, its reconstruction and its tokens, by one tokenizer.
function compared(tokenizer, answer) {
  const card = $("#tokenizer").content.cloneNode(true).firstElementChild;
  const own = answer.tokens;
  let tokens = [...own];
  let asked = 0; // of the neighbours: what an earlier question brings late is not shown
  const quality = answer.psnr === null ? "no difference" : `PSNR ${answer.psnr.toFixed(1)} dB`;
  const [image, map, walk, neighbors, reset] = [".image", ".map", ".walk", ".neighbors", ".reset"].map((one) => $(one, card));

  $("h3", card).textContent = `${tokenizer.name} · ${tokenizer.side} × ${tokenizer.side} tokens of ${tokenizer.codebook_size} codes`;
  show($(".seen", card), answer.seen, tokenizer.image_size, "The picture as the model sees it");

  function restore() {
    tokens = [...own];
    show(image, answer.image, tokenizer.image_size, "Its reconstruction");
    $(".quality", card).textContent = `reconstruction, ${quality}`;
    reset.hidden = true;
    paint();
  }

  function paint() {
    map.style.gridTemplateColumns = `repeat(${tokenizer.side}, 1fr)`;
    cells.forEach((button, place) => {
      // Neighbouring numbers get colours that are far apart: the golden angle.
      button.style.setProperty("--hue", (tokens[place] * 137.508) % 360);
      button.style.setProperty("--light", `${70 + (tokens[place] % 5) * 4}%`);
      button.title = `token ${tokens[place]}`;
      button.setAttribute("aria-label", `token ${tokens[place]}, row ${Math.floor(place / tokenizer.side) + 1}, column ${(place % tokenizer.side) + 1}`);
      button.textContent = tokenizer.side <= 8 ? tokens[place] : "";
    });
  }

  async function choose(place) {
    asked += 1;
    const question = asked;
    cells.forEach((one, index) => one.setAttribute("aria-selected", index === place));
    walk.hidden = false;
    const chosen = $(".chosen", card);
    chosen.textContent = `Token ${tokens[place]}`;
    neighbors.replaceChildren();
    if (!tokenizer.neighbors) {
      chosen.textContent += ": this model does not say which codes are near to it";
      return;
    }
    try {
      const near = await json("neighbors", { tokenizer: tokenizer.name, token: tokens[place] });
      const changed = near.tokens.map((token) => tokens.map((one, index) => (index === place ? token : one)));
      const { images } = await json("decode", { tokenizer: tokenizer.name, tokens: changed });
      if (question !== asked) return;
      chosen.textContent = `Token ${tokens[place]}: the picture with each of its ${images.length} nearest codes in its place, the nearest first`;
      neighbors.replaceChildren(...images.map((content, index) =>
        framed(content, tokenizer.image_size, `The picture with code ${near.tokens[index]}`, `${near.tokens[index]} · ${near.distances[index].toFixed(2)}`, () => {
          tokens = changed[index];
          show(image, content, tokenizer.image_size, "The picture of the changed tokens");
          $(".quality", card).textContent = "of the changed tokens";
          reset.hidden = false;
          paint();
          cells[place].focus();
          choose(place);
        })));
    } catch (error) {
      if (question === asked) chosen.textContent = error.message;
    }
  }

  const rows = Array.from({ length: tokenizer.side }, () => {
    const row = document.createElement("div");
    row.setAttribute("role", "row");
    return row;
  });
  map.replaceChildren(...rows);
  const cells = own.map((_, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.setAttribute("role", "gridcell");
    button.setAttribute("aria-selected", "false");
    button.tabIndex = place === 0 ? 0 : -1;
    button.addEventListener("click", () => choose(place));
    button.addEventListener("focus", () => cells.forEach((one, index) => { one.tabIndex = index === place ? 0 : -1; }));
    button.addEventListener("keydown", (event) => {
      const column = place % tokenizer.side;
      const step = {
        ArrowLeft: column > 0 ? -1 : 0, ArrowRight: column < tokenizer.side - 1 ? 1 : 0,
        ArrowUp: -tokenizer.side, ArrowDown: tokenizer.side,
      }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      cells[place + step]?.focus();
    });
    rows[Math.floor(place / tokenizer.side)].append(button);
    return button;
  });
  reset.addEventListener("click", () => {
    restore();
    const place = cells.findIndex((one) => one.getAttribute("aria-selected") === "true");
    cells[place].focus();
    choose(place);
  });
  restore();
  return card;
}

const drop = $("#drop");
let early; // a file that came before the models were known
const given = async (file) => {
  if (!models) early = file;
  else if (file) await look(await read(file)).catch((error) => say($("#tokens-said"), error.message, true));
};
$("#file").addEventListener("change", (event) => given(event.target.files[0]));
for (const kind of ["dragover", "dragenter"]) {
  addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) addEventListener(kind, () => drop.classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); given(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => given([...event.clipboardData.files][0]));

// --- completion

const completion = $("#completion");
const keep = () => {
  const side = models.generator.side;
  $("#kept").textContent = `${completion.kept_rows.value} of ${side} rows`;
};
completion.kept_rows.addEventListener("input", keep);
completion.addEventListener("submit", (event) => {
  event.preventDefault();
  const count = completion.completions.valueAsNumber;
  const seed = settings.seed.valueAsNumber;
  const captions = Array.from({ length: count }, (_, row) => ({ alt: "A completion of the picture", caption: `seed ${seed + row}` }));
  const body = {
    image: picture, count, kept_rows: completion.kept_rows.valueAsNumber,
    class_id: Number(completion.class_id.value || 0), sampling: sampling(),
  };
  draw(completion, $("#completed"), "complete", body, captions);
});

// --- start

function offerClasses(names) {
  $("#class-field").hidden = $("#class-label").hidden = !names.length;
  $("#filter").hidden = names.length <= MANY_CLASSES;
  $("#classes").replaceChildren(...names.map((name, id) => {
    const [label, box, text] = ["label", "input", "span"].map((kind) => document.createElement(kind));
    box.type = "checkbox";
    box.value = id;
    text.textContent = name;
    label.append(box, text);
    return label;
  }));
  completion.class_id.replaceChildren(...names.map((name, id) => new Option(name, id)));
}

async function start() {
  const said = $("#models");
  let found;
  try {
    found = await (await ask("models")).json();
  } catch (error) {
    say(said, error.message, true);
    return;
  }
  const { generator, tokenizers } = found;
  const drawing = typeof generator !== "string";
  const known = [
    drawing ? `${generator.preset}: ${generator.image_size} × ${generator.image_size} pixels, ${generator.side ** 2} tokens` : `no image model: ${generator}`,
    ...tokenizers.filter((one) => one.error).map((one) => `no tokenizer ${one.name}: ${one.error}`),
  ];
  say(said, known.join(" · "), known.length > 1 || !drawing);
  $("#draw").hidden = !drawing;
  $("#tokens").hidden = tokenizers.every((one) => one.error);
  models = found;
  if (drawing) offerDrawing(generator);
  await given(early);
}

function offerDrawing(generator) {
  offerClasses(generator.classes);
  completion.kept_rows.max = generator.side;
  completion.kept_rows.value = Math.floor(generator.side / 2);
  keep();
  recall();
}

start();
