// The AI SDK, as an application uses it: streamText with a tool that reads a file. Prints each part
// of the stream as one line of JSON.
//
//   BASE_URL=http://127.0.0.1:8000/v1 API_KEY=... MODEL=demo node tool_call.mjs FILE

import { readFile } from "node:fs/promises";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "llmproxy",
  baseURL: process.env.BASE_URL,
  apiKey: process.env.API_KEY,
  includeUsage: true,
});

const result = streamText({
  model: provider(process.env.MODEL),
  prompt: `Read the file ${process.argv[2]} and tell me the token in it.`,
  tools: {
    read: tool({
      description: "Read a file",
      inputSchema: z.object({ path: z.string() }),
      execute: ({ path }) => readFile(path, "utf8"),
    }),
  },
  stopWhen: stepCountIs(4),
  maxRetries: 0,
  onError: () => {}, // errors are parts of the stream as well
});

for await (const part of result.fullStream) {
  const plain = part.error instanceof Error ? { ...part, error: describe(part.error) } : part;
  console.log(JSON.stringify({ ...plain, request: undefined, response: undefined }));
}

function describe(error) {
  return {
    name: error.name,
    message: error.message,
    status: error.statusCode,
    retryable: error.isRetryable,
  };
}
