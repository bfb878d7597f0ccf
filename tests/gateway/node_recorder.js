// A server on node's own HTTP parser: one JSON line on stdout for its port, then one per request.
"use strict";

const http = require("node:http");

const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

function record(request, response) {
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("close", () => {
    if (!request.complete) tell(request, pieces);
  });
  request.on("end", () => {
    tell(request, pieces);
    response.setHeader("Content-Type", "application/json");
    response.end('{"ok":true}');
  });
}

function tell(request, pieces) {
  say({
    method: request.method,
    target: request.url,
    fields: request.rawHeaders, // name, value, name, value; bytes as Latin-1
    body: Buffer.concat(pieces).toString("base64"),
    complete: request.complete,
  });
}

const server = http.createServer({ keepAliveTimeout: 0, requestTimeout: 0 }, record);
server.on("checkContinue", record);
server.on("checkExpectation", record);
server.on("clientError", (error, socket) => {
  say({ refused: String(error.code) });
  socket.destroy();
});
server.on("upgrade", (request, socket) => {
  tell(request, []);
  socket.destroy();
});
server.on("connect", (request, socket) => {
  tell(request, []);
  socket.destroy();
});
server.listen(0, "127.0.0.1", () => say({ port: server.address().port }));
process.stdin.on("end", () => process.exit(0)).resume();
