"use strict";
// Every text goes in as a text node, so nothing of the document is read as HTML.
const make = (name, attributes, ...children) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
};
// `words` between backticks are code.
const prose = (text) => text.split("`").map((part, at) => (at % 2 ? make("code", {}, part) : part));

let api;
const follow = (value) => {
  if (!value?.$ref) return value;
  const steps = value.$ref
    .slice(2)
    .split("/")
    .map((step) => step.replaceAll("~1", "/").replaceAll("~0", "~"));
  return steps.reduce((found, step) => found[step], api);
};
const nameOf = (schema) => schema.$ref?.split("/").pop();

// A schema as a short type: `string`, `Agent[]`, `"a" | "b"`, `number, 0 to 2`.
const typeOf = (schema, links) => {
  if (schema === true || schema === undefined) return ["anything"];
  const name = nameOf(schema);
  if (name) {
    links.add(name);
    return [name];
  }
  const join = (parts) =>
    parts.flatMap((part, at) => (at ? [" | ", ...typeOf(part, links)] : typeOf(part, links)));
  if (schema.enum) return [schema.enum.map((one) => JSON.stringify(one)).join(" | ")];
  if (schema.const !== undefined) return [JSON.stringify(schema.const)];
  if (schema.oneOf) return join(schema.oneOf);
  if (schema.anyOf && !schema.type) return join(schema.anyOf);
  if (schema.allOf) return join(schema.allOf.slice(0, 1));
  const kinds = [schema.type ?? "anything"].flat();
  const shown = kinds.flatMap((kind) => (kind === "array" ? [...typeOf(schema.items, links), "[]"] : [kind]));
  let text = [shown[0], ...shown.slice(1).map((kind) => (kind === "[]" ? kind : ` | ${kind}`))].join("");
  if (schema.format) text += ` (${schema.format})`;
  const [least, most] = [
    schema.minimum ?? schema.minLength ?? schema.minItems,
    schema.maximum ?? schema.maxLength ?? schema.maxItems,
  ];
  if (least !== undefined && most !== undefined) text += `, ${least} to ${most}`;
  else if (least !== undefined) text += `, at least ${least}`;
  else if (most !== undefined) text += `, at most ${most}`;
  if (schema.default !== undefined && schema.default !== null)
    text += `, default ${JSON.stringify(schema.default)}`;
  return [text];
};

const row = (name, type, about, required) =>
  make(
    "tr",
    {},
    make(
      "th",
      { scope: "row" },
      make("code", {}, name),
      required ? make("span", { class: "bad", title: "required" }, " *") : "",
    ),
    make("td", {}, make("code", { class: "dim" }, ...type), about ? make("br") : "", ...prose(about ?? "")),
  );

// The fields of a schema, and of those it names, each once.
const fields = (schema, seen = new Set()) => {
  const box = make("div");
  const links = new Set();
  const name = nameOf(schema);
  if (name) seen.add(name);
  const whole = follow(schema);
  const required = new Set([
    ...(whole.required ?? []),
    ...(whole.allOf ?? []).flatMap((part) => part.required ?? []),
  ]);
  const parts = [whole, ...(whole.allOf ?? []), ...(whole.anyOf ?? []), ...(whole.oneOf ?? [])];
  const rows = [];
  for (const part of parts) {
    if (part !== whole && nameOf(part)) links.add(nameOf(part));
    if (part !== whole && part.$ref && !whole.allOf) continue;
    const own = follow(part);
    for (const [field, value] of Object.entries(own.properties ?? {}))
      rows.push(
        row(
          field,
          typeOf(value, links),
          value.description ?? "",
          required.has(field) || own.required?.includes(field),
        ),
      );
  }
  if (whole.items) typeOf(whole.items, links);
  if (rows.length) box.append(make("table", {}, make("tbody", {}, ...rows)));
  else box.append(make("p", {}, make("code", {}, ...typeOf(whole, links))));
  for (const link of links) {
    if (seen.has(link)) continue;
    seen.add(link);
    const named = api.components.schemas[link];
    if (!named.properties && !named.anyOf && !named.oneOf) {
      box.append(
        make(
          "p",
          {},
          make("b", {}, link),
          ": ",
          make("code", {}, ...typeOf(named, new Set())),
          " ",
          ...prose(named.description ?? ""),
        ),
      );
      continue;
    }
    const title = make(
      "p",
      {},
      make("b", {}, link),
      named.description ? ": " : "",
      ...prose(named.description ?? ""),
    );
    box.append(title, fields({ $ref: `#/components/schemas/${link}` }, seen));
  }
  return box;
};

const example = (value) =>
  make("pre", {}, typeof value === "string" ? value : JSON.stringify(value, null, 2));

const keyNames = { agentKey: "ak_…", accountKey: "sk_…", operatorToken: "op_…" };
const curl = (method, path, call) => {
  const keys = (call.security ?? []).flatMap((one) => Object.keys(one));
  const lines = [`curl${method === "get" ? "" : ` -X ${method.toUpperCase()}`} ${location.origin}${path}`];
  if (keys.length) lines.push(`-H "Authorization: Bearer ${keyNames[keys[0]]}"`);
  const body = call.requestBody?.content["application/json"]?.example;
  if (body)
    lines.push(
      '-H "Content-Type: application/json"',
      `-d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`,
    );
  return lines.join(" \\\n  ");
};

const answer = (status, response) => {
  const { description, content = {}, headers = {} } = follow(response);
  const bodies = Object.entries(content).map(([kind, { schema, example: shown }]) =>
    make(
      "div",
      {},
      make(
        "p",
        {},
        make("code", {}, kind),
        " ",
        make("code", { class: "dim" }, ...(kind === "application/json" ? typeOf(schema, new Set()) : [])),
      ),
      shown === undefined ? "" : example(shown),
      kind === "application/json" && !response.$ref ? fields(schema) : "",
    ),
  );
  const told = Object.keys(headers);
  return make(
    "details",
    {},
    make(
      "summary",
      {},
      make("b", { class: status < 400 ? "get" : "bad" }, status),
      " ",
      ...prose(description),
    ),
    make(
      "div",
      { class: "body" },
      ...bodies,
      told.length
        ? make(
            "p",
            { class: "dim" },
            "Headers: ",
            ...told.flatMap((name, at) => [at ? ", " : "", make("code", {}, name)]),
          )
        : "",
    ),
  );
};

const operation = (path, method, call) => {
  const needed = (call.security ?? []).flatMap((one) => Object.keys(one));
  const inside = make("div", { class: "body" });
  if (call.description) inside.append(make("p", {}, ...prose(call.description)));
  inside.append(
    make(
      "p",
      { class: "dim" },
      needed.length ? "Takes " : "Takes no key.",
      ...needed.flatMap((name, at) => [
        at ? " or " : "",
        ...prose(
          api.components.securitySchemes[name].description
            .split(":")[0]
            .replace(/^./, (first) => first.toLowerCase()),
        ),
      ]),
    ),
  );
  const places = { path: "In the path", query: "In the query", header: "Headers" };
  for (const [place, title] of Object.entries(places)) {
    const some = (call.parameters ?? []).filter((one) => one.in === place);
    if (!some.length) continue;
    const rows = some.map((one) =>
      row(one.name, typeOf(one.schema, new Set()), one.description, one.required),
    );
    inside.append(make("h4", {}, title), make("table", {}, make("tbody", {}, ...rows)));
  }
  const body = call.requestBody?.content["application/json"];
  if (body) inside.append(make("h4", {}, "Body"), fields(body.schema));
  inside.append(make("h4", {}, "Example"), example(curl(method, path, call)), make("h4", {}, "Answers"));
  for (const [status, response] of Object.entries(call.responses)) inside.append(answer(status, response));
  const head = make(
    "summary",
    {},
    make(
      "h3",
      {},
      make("span", { class: `method ${method}` }, method.toUpperCase()),
      " ",
      make("code", {}, path),
      make("span", { class: "dim" }, `  ${call.summary}`),
    ),
  );
  return make("article", { id: call.operationId }, make("details", {}, head, inside));
};

const opened = () => {
  const named = document.getElementById(location.hash.slice(1))?.querySelector("details");
  if (named) {
    named.open = true;
    named.scrollIntoView();
  }
};

const render = () => {
  const main = document.getElementById("main");
  const list = document.getElementById("list");
  main.replaceChildren(
    make("h1", {}, `${api.info.title} ${api.info.version}`),
    make("p", {}, ...prose(`${api.info.summary}. ${api.info.description}`)),
    make("p", {}, make("a", { href: "/openapi.json" }, "/openapi.json")),
  );
  for (const tag of api.tags) {
    const section = make("section", {}, make("h2", {}, tag.name), make("p", {}, ...prose(tag.description)));
    const links = make("div", {}, make("h2", {}, tag.name));
    for (const [path, calls] of Object.entries(api.paths))
      for (const [method, call] of Object.entries(calls)) {
        if (!call.tags.includes(tag.name)) continue;
        section.append(operation(path, method, call));
        links.append(
          make(
            "a",
            { href: `#${call.operationId}`, title: call.summary },
            make("span", { class: `method ${method}` }, method.toUpperCase()),
            " ",
            path,
          ),
        );
      }
    main.append(section);
    list.append(links);
  }
  document.getElementById("find").addEventListener("input", ({ target }) => {
    const sought = target.value.toLowerCase();
    for (const article of document.querySelectorAll("article")) {
      article.hidden = !article.querySelector("summary").textContent.toLowerCase().includes(sought);
      document.querySelector(`nav a[href="#${article.id}"]`).hidden = article.hidden;
    }
    for (const group of document.querySelectorAll("section, #list > div"))
      group.hidden = !group.querySelector("article:not([hidden]), a:not([hidden])");
  });
  addEventListener("hashchange", opened);
  opened();
  document.body.dataset.ready = "true";
};

fetch("/openapi.json")
  .then((answered) => answered.json())
  .then((read) => {
    api = read;
    render();
  })
  .catch((cause) => {
    document.getElementById("state").replaceChildren(`The description could not be read: ${cause}`);
  });
