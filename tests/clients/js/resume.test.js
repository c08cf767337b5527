// A stream that the SDK began goes on after a lost connection, by plain HTTP.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import OpenAI from 'openai';

import { startSwitchboard } from './harness.js';
import { startUpstream, TEXT } from './upstream.js';

let upstream;
let server;

before(async () => {
  upstream = await startUpstream();
  server = await startSwitchboard(upstream);
});

after(async () => {
  await server.finish();
  upstream.stop();
});

/** The events of a completion's stream after `last`. */
async function resumed(completion, last) {
  const headers = { authorization: `Bearer ${server.info.agent_key}`, ...(last && { 'last-event-id': last }) };
  const answer = await fetch(`${server.baseURL}/chat/completions/${completion}/stream`, { headers });
  assert.equal(answer.status, 200);
  const pieces = (await answer.text()).split('\n\n').filter((piece) => /^(data|id): /.test(piece));
  return pieces.map((piece) => Object.fromEntries(piece.split('\n').map((line) => line.split(/: (.*)/s, 2))));
}

test('a stream goes on where it was lost', async () => {
  const client = new OpenAI({ baseURL: server.baseURL, apiKey: server.info.agent_key, maxRetries: 0 });
  const messages = [{ role: 'user', content: 'plain' }];
  const stream = await client.chat.completions.create({ model: server.info.agent_id, messages, stream: true });
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const again = await resumed(chunks[0].id);
  assert.equal(again.at(-1).data, '[DONE]');
  assert.deepEqual(again.slice(0, -1).map(({ data }) => JSON.parse(data)), chunks);
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? '').join(''), TEXT);
  for (const [at, { id }] of again.entries()) {
    assert.deepEqual(await resumed(chunks[0].id, id), again.slice(at + 1));
  }
});
