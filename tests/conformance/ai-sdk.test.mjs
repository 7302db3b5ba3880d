// Vercel's AI SDK with its provider for servers of OpenAI's API.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const provider = (url, more = {}) =>
  createOpenAICompatible({ name: "forebay", baseURL: `${url}/v1`, apiKey: "fb-local", includeUsage: true, ...more });
const forebay = provider(process.env.FOREBAY_URL, { supportsStructuredOutputs: true });
const clever = provider(process.env.CLEVER_URL);
const model = forebay("smollm2-135m-instruct");
const brief = { temperature: 0, maxOutputTokens: 24, maxRetries: 0 };

test("a text, whole and streamed", async () => {
  const whole = await generateText({ model, prompt: "What is a dam?", ...brief });
  assert.ok(whole.text && whole.usage.totalTokens > 0);
  const streamed = streamText({ model, prompt: "What is a dam?", ...brief });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.ok(text);
  assert.ok((await streamed.usage).outputTokens > 0);
  assert.ok(["stop", "length"].includes(await streamed.finishReason));
});

test("an object by its schema", async () => {
  const schema = z.object({ city: z.enum(["Oslo", "Paris"]) });
  const { object } = await generateObject({ model, schema, prompt: "Oslo or Paris?", ...brief, maxOutputTokens: 60 });
  assert.ok(["Oslo", "Paris"].includes(object.city));
});

test("tools in steps, whole and streamed", async () => {
  const weather = tool({
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => `Rain in ${city}.`,
  });
  const request = { model: clever("clever"), tools: { weather }, prompt: "Weather in '北京'?", stopWhen: stepCountIs(3) };
  const whole = await generateText(request);
  const streamed = streamText(request);
  for (const [text, steps] of [[whole.text, whole.steps], [await streamed.text, await streamed.steps]]) {
    assert.match(text, /Rain in 北京\./);
    assert.deepEqual(steps[0].toolCalls[0].input, { city: "北京" });
  }
});

test("vectors", async () => {
  const { embeddings, usage } = await embedMany({
    model: forebay.embeddingModel("all-minilm-l6-v2"), values: ["a dam", "a river"],
  });
  assert.deepEqual(embeddings.map((one) => one.length), [384, 384]);
  assert.ok(usage.tokens > 0);
});

test("an error says what is wrong", async () => {
  await assert.rejects(
    generateText({ model: forebay("none"), prompt: "Hi", maxRetries: 0 }),
    (error) => error.statusCode === 404 && /none/.test(error.message),
  );
});
