// Swagger UI over /openapi.json. Nothing leaves the machine: no validator badge, and an API key is kept in memory alone.

const isDark = window.matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", isDark.matches);
isDark.addEventListener("change", follow);
follow();

/** Fields of forms that have no default start empty, and empty ones are not sent; Swagger UI would make up values. */
function withEmptyFields(api) {
  const operations = Object.values(api.paths).flatMap((path) => Object.values(path));
  for (const { requestBody } of operations) {
    const fields = requestBody?.content["multipart/form-data"]?.schema.properties ?? {};
    for (const field of Object.values(fields)) {
      if (!("default" in field) && field.format !== "binary") field.example = "";
    }
  }
  return api;
}

if (!window.SwaggerUIBundle) {
  document.getElementById("swagger-ui").textContent = "Swagger UI is not installed here (pip install fastapi-swagger).";
  throw new Error("no Swagger UI");
}
const answer = await fetch(new URL("../../openapi.json", import.meta.url));
window.SwaggerUIBundle({
  spec: withEmptyFields(await answer.json()),
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
});
