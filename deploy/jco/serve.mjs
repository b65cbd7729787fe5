// Serves the component for WASI 0.3 on Node 26, one request after the other. `jco serve` (1.35) serves components of WASI
// 0.2 only. Environment: HOST (127.0.0.1), PORT (5000), DATA_FOLDER (the folder of the store files), and eyot's settings.
import process from "node:process";
import { HttpServer } from "@bytecodealliance/preview3-shim/http";

if (process.env.DATA_FOLDER) await import("./data.mjs");
const { handler } = await import("./eyot-wasi.js");

// The function of the component returns an answer or throws. The server of preview3-shim 0.7 expects a result.
const server = new HttpServer({
  async handle(request) {
    try {
      return { tag: "ok", val: await handler.handle(request) };
    } catch (error) {
      return { tag: "err", val: error };
    }
  },
});
server.on("error", (error) => console.error("a request failed:", error));
const { HOST: host = "127.0.0.1", PORT: port = "5000" } = process.env;
await server.listen(Number(port), host);
console.error(`listening on http://${host}:${port}`);
