// A plain reading of /openapi.json: every route, parameter, body and answer, without anything from elsewhere.

const make = (tag, text = "", attributes = {}) => {
  const element = Object.assign(document.createElement(tag), attributes);
  if (text) element.textContent = text;
  return element;
};

function table(heads, rows) {
  const element = make("table");
  const head = element.createTHead().insertRow();
  for (const text of heads) head.append(make("th", text));
  const body = element.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    for (const text of cells) row.insertCell().textContent = text ?? "";
  }
  return element;
}

function typeOf(schema = {}) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  const any = schema.anyOf ?? schema.oneOf;
  if (any) return any.map(typeOf).join(" | ");
  return schema.type === "array" ? `${typeOf(schema.items)}[]` : (schema.const ?? schema.type ?? "any");
}

function operation(path, method, spec) {
  const details = make("details");
  const summary = make("summary");
  summary.append(make("span", method.toUpperCase(), { className: "method" }), make("code", path), ` ${spec.summary ?? ""}`);
  details.append(summary);
  if (spec.description) details.append(make("p", spec.description));
  if (spec.parameters?.length) {
    details.append(table(["parameter", "in", "type", "meaning"], spec.parameters.map((parameter) =>
      [parameter.name, parameter.in, typeOf(parameter.schema), parameter.description ?? parameter.schema?.description])));
  }
  const bodies = Object.entries(spec.requestBody?.content ?? {});
  if (bodies.length) details.append(table(["body", "type"], bodies.map(([media, body]) => [media, typeOf(body.schema)])));
  details.append(table(["status", "meaning", "body"], Object.entries(spec.responses ?? {}).map(([status, answer]) =>
    [status, answer.description, Object.keys(answer.content ?? {}).join(", ")])));
  return details;
}

const routes = document.getElementById("routes");
try {
  const api = await (await fetch(new URL("../../openapi.json", import.meta.url))).json();
  document.getElementById("title").textContent = `${api.info.title} ${api.info.version}`;
  document.getElementById("description").textContent = api.info.description ?? "";
  routes.replaceChildren();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, spec] of Object.entries(methods)) routes.append(operation(path, method, spec));
  }
  routes.append(make("h2", "Schemas"));
  for (const [name, schema] of Object.entries(api.components?.schemas ?? {})) {
    const details = make("details");
    details.append(make("summary", name));
    if (schema.description) details.append(make("p", schema.description));
    details.append(table(["field", "type", "meaning"], Object.entries(schema.properties ?? {}).map(([field, value]) =>
      [field, typeOf(value), value.description])));
    routes.append(details);
  }
} catch (error) {
  routes.replaceChildren(make("p", `The description could not be read: ${error.message}`));
}
