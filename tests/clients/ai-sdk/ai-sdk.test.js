// Vercel's AI SDK with its provider for OpenAI's likes, the last version for Node 20, against the real server.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateText, Output, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

import { startSwitchboard } from './harness.js';
import { PROMPT_TOKENS, startUpstream, TEXT, WORDS } from './upstream.js';

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

const last = () => upstream.calls.at(-1);

/** A model of the AI SDK that is the agent. */
function connect({ model, ...more } = {}) {
  const provider = createOpenAICompatible({
    name: 'switchboard',
    baseURL: server.baseURL,
    apiKey: server.info.agent_key,
    includeUsage: true,
    supportsStructuredOutputs: true,
    ...more,
  });
  return provider(model ?? server.info.agent_id);
}

/** Fields of the provider's name go into the body as they are. */
const session = (session_id) => ({ providerOptions: { switchboard: { session_id } } });

const lookup = tool({
  description: 'Looks something up',
  inputSchema: z.object({ q: z.string() }),
  execute: ({ q }) => `result of ${q}`,
});

const generate = (more) => generateText({ model: connect(), maxRetries: 0, ...more });

/** A stream read to its end, in the shape of a generated answer. */
async function stream(more) {
  let failure;
  const result = streamText({ model: connect(), maxRetries: 0, onError: ({ error }) => (failure = error), ...more });
  const pieces = [];
  for await (const piece of result.textStream) pieces.push(piece);
  if (failure) throw Object.assign(failure, { pieces });
  const { messages } = await result.response;
  return { pieces, text: await result.text, totalUsage: await result.totalUsage, response: { messages } };
}

function checkUsage({ totalUsage }, requests, output) {
  const { inputTokens, outputTokens, totalTokens } = totalUsage;
  const input = requests * PROMPT_TOKENS;
  assert.deepEqual([inputTokens, outputTokens, totalTokens], [input, output, input + output]);
}

test('generateText', async () => {
  const result = await generate({ prompt: 'plain', system: 'Be helpful.' });
  assert.equal(result.text, TEXT);
  assert.equal(result.finishReason, 'stop');
  assert.equal(result.response.modelId, server.info.agent_id);
  assert.match(result.response.headers['x-request-id'], /^req_/);
  checkUsage(result, 1, WORDS.length);
});

test('streamText', async () => {
  const result = await stream({ prompt: 'plain' });
  assert.deepEqual(result.pieces, WORDS);
  checkUsage(result, 1, WORDS.length);
});

for (const [name, ask] of Object.entries({ generateText: generate, streamText: stream })) {
  for (const count of [1, 2]) {
    test(`${count} tools at once with ${name}`, async () => {
      const result = await ask({
        prompt: `tools ${count}`,
        tools: { lookup },
        stopWhen: stepCountIs(3),
        ...session(`tools-${name}-${count}`),
      });
      assert.equal(result.text, `The tool said: ${Array(count).fill('result of tea').join(', ')}`);
      // The second step sent all of it again, and nothing was taken for new.
      assert.deepEqual(last().roles, ['user', 'assistant', ...Array(count).fill('tool')]);
      checkUsage(result, 2, 2);

      const messages = [
        { role: 'user', content: `tools ${count}` },
        ...result.response.messages,
        { role: 'user', content: 'echo more' },
      ];
      await ask({ messages, tools: { lookup }, ...session(`tools-${name}-${count}`) });
      assert.deepEqual(last().roles, ['user', 'assistant', ...Array(count).fill('tool'), 'assistant', 'user']);
    });
  }

  test(`a conversation with ${name} in a session`, async () => {
    const id = `session-${name}`;
    await ask({ prompt: 'echo one', ...session(id) });
    await ask({ prompt: 'echo two', headers: { 'X-Session-Id': id } });
    assert.deepEqual(last().said, [
      ['user', 'echo one'],
      ['assistant', 'one'],
      ['user', 'echo two'],
    ]);
  });

  test(`a conversation that ${name} sends again`, async () => {
    const messages = [];
    for (const word of ['one', 'two', 'three']) {
      messages.push({ role: 'user', content: `echo ${word}` });
      const result = await ask({ messages, ...session(`again-${name}`) });
      messages.push(...result.response.messages);
    }
    assert.deepEqual(last().roles, ['user', 'assistant', 'user', 'assistant', 'user']);
  });

  const refusals = {
    401: async () => ({ apiKey: `ak_${'0'.repeat(40)}` }),
    // The SDK would try again twice, were it not told that it cannot help.
    402: async () => ({ ...(await server.tenant({ balance: '0.00001' })), maxRetries: 2 }),
    404: async () => ({ model: 'ag_00000000_0000' }),
    429: async () => {
      const tenant = await server.tenant({ balance: '1.00', limits: { requests_per_minute: 1 } });
      await generate({ model: connect(tenant), prompt: 'plain' });
      return tenant;
    },
  };
  const codes = { 401: 'invalid_api_key', 402: 'insufficient_balance', 404: 'model_not_found', 429: 'rate_limit_exceeded' };
  for (const [status, refused] of Object.entries(refusals)) {
    test(`${status} with ${name}`, async () => {
      const { maxRetries = 0, ...settings } = await refused();
      let requests = 0;
      const counting = (...request) => {
        requests += 1;
        return fetch(...request);
      };
      const call = ask({ model: connect({ ...settings, fetch: counting }), prompt: 'plain', maxRetries });
      await assert.rejects(call, (error) => {
        assert(APICallError.isInstance(error), String(error));
        assert.equal(error.statusCode, Number(status));
        assert.equal(error.data.error.code, codes[status]);
        assert.equal(error.isRetryable, status === '429');
        return true;
      });
      assert.equal(requests, 1);
    });
  }
}

test('structured output', async () => {
  const schema = z.object({ city: z.string(), degrees: z.number() });
  const result = await generate({ prompt: 'json', output: Output.object({ schema }) });
  assert.deepEqual(result.output, { city: 'Oslo', degrees: 18 });
  assert.equal(last().body.response_format.type, 'json_schema');
});

describe('failure in mid-stream', () => {
  test('is an error after the words that came', async () => {
    await assert.rejects(stream({ prompt: 'fail' }), (error) => {
      assert.deepEqual(error.pieces, WORDS.slice(0, 2));
      return true;
    });
  });
});
