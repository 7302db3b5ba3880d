// OpenAI's own SDK for Node, through every surface.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI, { toFile } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const CHAT = "smollm2-135m-instruct";
const VECTORS = "all-minilm-l6-v2";
const settings = { apiKey: "fb-local", maxRetries: 0 };
const ai = new OpenAI({ ...settings, baseURL: `${process.env.FOREBAY_URL}/v1` });
const clever = new OpenAI({ ...settings, baseURL: `${process.env.CLEVER_URL}/v1` });
const ask = (content, more = {}) => ({
  model: CHAT, messages: [{ role: "user", content }], temperature: 0, max_tokens: 24, ...more,
});

test("a chat, whole and streamed", async () => {
  const whole = await ai.chat.completions.create(ask("What is a dam?"));
  assert.ok(whole.choices[0].message.content && whole._request_id.startsWith("req_"));
  const stream = ai.chat.completions.stream(ask("What is a dam?", { stream_options: { include_usage: true } }));
  const final = await stream.finalChatCompletion();
  assert.equal(typeof final.choices[0].message.content, "string");
  assert.ok(final.usage.total_tokens > 0);
});

test("a stream that is given up", async () => {
  const stream = await ai.chat.completions.create(ask("Tell me a long story.", { stream: true, max_tokens: 900 }));
  for await (const chunk of stream) {
    if (chunk.choices[0].delta.content) break;
  }
  assert.ok(stream.controller.signal.aborted);
});

test("an answer that is parsed by its schema", async () => {
  const Weather = z.object({ city: z.enum(["Oslo", "Paris"]) });
  const answer = await ai.chat.completions.parse(
    ask("Weather in Oslo?", { response_format: zodResponseFormat(Weather, "weather"), max_tokens: 60 }),
  );
  assert.ok(["Oslo", "Paris"].includes(answer.choices[0].message.parsed.city));
});

const tools = [{
  type: "function",
  function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } },
}];

test("a tool that is called, whole and streamed", async () => {
  const request = { model: "clever", messages: [{ role: "user", content: "Weather in '北京'?" }], tools };
  const whole = await clever.chat.completions.create(request);
  const streamed = await clever.chat.completions.stream(request).finalChatCompletion();
  for (const answer of [whole, streamed]) {
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, "weather");
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "北京" });
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
  }
});

test("two calls at once in each of two answers, put together by the SDK", async () => {
  const named = (name, field) =>
    ({ type: "function", function: { name, parameters: { type: "object", properties: { [field]: { type: "string" } } } } });
  const request = {
    model: "clever", n: 2, tools: [named("weather", "city"), named("clock", "zone")],
    messages: [{ role: "user", content: "weather and clock of '北京 🏮'" }],
  };
  const whole = await clever.chat.completions.create(request);
  const streamed = await clever.chat.completions.stream(request).finalChatCompletion();
  const said = (answer) => answer.choices.map((choice) =>
    [choice.index, choice.finish_reason, choice.message.tool_calls.map((call) => call.function.name + call.function.arguments)]);
  assert.deepEqual(said(streamed), said(whole));
  assert.equal(said(whole)[1][2].length, 2);
  assert.match(said(whole)[1][2][1], /北京 🏮/);
});

test("a program that runs tools until there is an answer", async () => {
  const asked = [];
  const runner = clever.chat.completions.runTools({
    model: "clever",
    messages: [{ role: "user", content: "Weather in 'Oslo'?" }],
    tools: [{
      type: "function",
      function: {
        name: "weather", parse: JSON.parse, parameters: tools[0].function.parameters,
        function: ({ city }) => { asked.push(city); return "Rain."; },
      },
    }],
  });
  assert.match(await runner.finalContent(), /Rain\./);
  assert.deepEqual(asked, ["Oslo"]);
});

test("a text that goes on", async () => {
  const answer = await ai.completions.create({ model: CHAT, prompt: ["One", "Two"], max_tokens: 3 });
  assert.deepEqual(answer.choices.map((choice) => choice.index), [0, 1]);
});

test("vectors", async () => {
  // The SDK asks for base64, and unpacks it.
  const answer = await ai.embeddings.create({ model: VECTORS, input: ["a dam", "a river"], dimensions: 64 });
  assert.deepEqual(answer.data.map((one) => one.embedding.length), [64, 64]);
  const floats = await ai.embeddings.create({ model: VECTORS, input: "a dam", encoding_format: "float" });
  assert.equal(floats.data[0].embedding.length, 384);
});

test("models", async () => {
  const ids = [];
  for await (const model of ai.models.list()) ids.push(model.id);
  assert.ok(ids.includes(CHAT) && ids.includes(VECTORS));
  assert.equal((await ai.models.retrieve(CHAT)).object, "model");
});

test("files", async () => {
  const text = "{}\n".repeat(100_000);
  const file = await ai.files.create({ file: await toFile(Buffer.from(text), "a.jsonl"), purpose: "batch" });
  assert.equal(file.bytes, text.length);
  assert.equal(await (await ai.files.content(file.id)).text(), text);
  const ids = [];
  for await (const one of ai.files.list({ purpose: "batch", limit: 1 })) ids.push(one.id);
  assert.ok(ids.includes(file.id) && new Set(ids).size === ids.length);
  assert.equal((await ai.files.delete(file.id)).deleted, true);
  await assert.rejects(ai.files.retrieve(file.id), OpenAI.NotFoundError);
});

test("uploads", async () => {
  const upload = await ai.uploads.create({ bytes: 6, filename: "a", mime_type: "text/plain", purpose: "user_data" });
  const part = async (text) => (await ai.uploads.parts.create(upload.id, { data: await toFile(Buffer.from(text)) })).id;
  const [second, first] = [await part("def"), await part("abc")];
  const done = await ai.uploads.complete(upload.id, { part_ids: [first, second] });
  assert.equal(done.status, "completed");
  assert.equal(await (await ai.files.content(done.file.id)).text(), "abcdef");
});

test("batches", async () => {
  const line = (id, body) => JSON.stringify({ custom_id: id, method: "POST", url: "/v1/chat/completions", body });
  const lines = [line("good", ask("Hello", { max_tokens: 2 })), line("bad", ask("Hello", { model: "none" }))].join("\n");
  const file = await ai.files.create({ file: await toFile(Buffer.from(lines), "in.jsonl"), purpose: "batch" });
  let batch = await ai.batches.create({
    input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h", metadata: { a: "b" },
  });
  for (let tries = 0; batch.status !== "completed"; tries++) {
    assert.ok(tries < 300, JSON.stringify(batch));
    await new Promise((resolve) => setTimeout(resolve, 100));
    batch = await ai.batches.retrieve(batch.id);
  }
  assert.deepEqual(batch.request_counts, { total: 2, completed: 1, failed: 1 });
  assert.match(await (await ai.files.content(batch.output_file_id)).text(), /"custom_id":"good"/);
  assert.match(await (await ai.files.content(batch.error_file_id)).text(), /"custom_id":"bad"/);
  const ids = [];
  for await (const one of ai.batches.list({ limit: 1 })) ids.push(one.id);
  assert.ok(ids.includes(batch.id));
});

test("errors are of their kind", async () => {
  await assert.rejects(ai.chat.completions.create(ask("Hi", { model: "none" })), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.deepEqual([error.code, error.param, error.type], ["model_not_found", "model", "invalid_request_error"]);
    return true;
  });
  await assert.rejects(ai.chat.completions.create(ask("Hi", { temperature: 9 })), OpenAI.BadRequestError);
  const stranger = new OpenAI({ ...settings, apiKey: "wrong", baseURL: ai.baseURL });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});
