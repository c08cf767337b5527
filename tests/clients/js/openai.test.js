// The official package against the real server: the newest version, the last one for Node 20, and one of November 2025.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { z } from 'zod';

import { startSwitchboard, until } from './harness.js';
import { PROMPT_TOKENS, startUpstream, TEXT, WORDS } from './upstream.js';

const LOOKUP = {
  type: 'function',
  function: {
    name: 'lookup',
    description: 'Looks something up',
    parameters: { type: 'object', properties: { q: { type: 'string' } }, required: ['q'] },
  },
};
const Weather = z.object({ city: z.string(), degrees: z.number() });

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

/** What the provider saw in its last call, without the instructions. */
const said = () => upstream.calls.at(-1).said;

for (const name of ['openai', 'openai-6', 'openai-2025']) {
  const openai = await import(name);
  const { zodResponseFormat } = await import(`${name}/helpers/zod`);
  const { VERSION } = await import(`${name}/version`);

  describe(`openai ${VERSION}`, () => {
    let agent;
    let client;
    const user = (content) => [{ role: 'user', content }];
    const ask = (content, more = {}, options = {}) =>
      client.chat.completions.create({ model: agent, messages: user(content), ...more }, options);
    const connect = (options) => new openai.OpenAI({ baseURL: server.baseURL, timeout: 60_000, maxRetries: 0, ...options });

    before(() => {
      agent = server.info.agent_id;
      client = connect({ apiKey: server.info.agent_key });
    });

    test('plain answer', async () => {
      const { data: completion, response, request_id } = await ask('plain').withResponse();
      assert.equal(completion.object, 'chat.completion');
      assert.equal(completion.model, agent);
      assert.equal(completion.agent_id, agent);
      assert.equal(completion.choices[0].message.content, TEXT);
      assert.equal(completion.content, TEXT);
      assert.equal(completion.choices[0].finish_reason, 'stop');
      assert.equal(completion.usage.total_tokens, PROMPT_TOKENS + WORDS.length);
      assert.match(request_id, /^req_/);
      assert.equal(completion._request_id, request_id);
      assert.equal(response.headers.get('x-session-id'), completion.session_id);
      assert.equal(response.headers.get('x-completion-id'), completion.id);
    });

    test('stream', async () => {
      const chunks = [];
      for await (const chunk of await ask('plain', { stream: true, stream_options: { include_usage: true } })) {
        chunks.push(chunk);
      }
      assert.equal(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join(''), TEXT);
      assert.deepEqual([...new Set(chunks.map((chunk) => chunk.model))], [agent]);
      assert.match(chunks[0].session_id, /^sess_/);
      const last = chunks.at(-1);
      assert.deepEqual(last.choices, []);
      assert.equal(last.usage.completion_tokens, WORDS.length);
      assert.equal((await server.charges(last.id)).length, 1);
    });

    test('no usage chunk unless asked for', async () => {
      for await (const chunk of await ask('plain', { stream: true })) {
        assert.equal(chunk.choices.length, 1);
        assert(!chunk.usage);
      }
    });

    test('stream helper', async () => {
      const stream = client.chat.completions.stream({ model: agent, messages: user('plain') });
      let text = '';
      stream.on('content', (delta) => (text += delta));
      const final = await stream.finalChatCompletion();
      assert.equal(text, TEXT);
      assert.equal(final.choices[0].message.content, TEXT);
      assert.equal(final.choices[0].finish_reason, 'stop');
    });

    test('tools, there and back', async () => {
      const first = await ask('tools', { tools: [LOOKUP] });
      const { message, finish_reason } = first.choices[0];
      assert.equal(finish_reason, 'tool_calls');
      const [call] = message.tool_calls;
      assert.deepEqual(JSON.parse(call.function.arguments), { q: 'tea' });
      const result = { role: 'tool', tool_call_id: call.id, content: 'green' };
      const second = await client.chat.completions.create({
        model: agent,
        messages: [...user('tools'), message, result],
        tools: [LOOKUP],
        session_id: first.session_id,
      });
      assert.equal(second.choices[0].message.content, 'The tool said: green');
      assert.deepEqual(said().map(([role]) => role), ['user', 'assistant', 'tool']);
    });

    for (const stream of [false, true]) {
      test(`runTools${stream ? ', streamed' : ''}`, async () => {
        const asked = [];
        const lookup = ({ q }) => {
          asked.push(q);
          return 'green';
        };
        const tool = { ...LOOKUP, function: { ...LOOKUP.function, function: lookup, parse: JSON.parse } };
        const runner = client.chat.completions.runTools({ model: agent, messages: user('tools'), tools: [tool], stream });
        assert.equal(await runner.finalContent(), 'The tool said: green');
        assert.deepEqual(asked, ['tea']);
      });
    }

    test('parse', async () => {
      const completion = await client.chat.completions.parse({
        model: agent,
        messages: user('json'),
        response_format: zodResponseFormat(Weather, 'weather'),
      });
      assert.deepEqual(completion.choices[0].message.parsed, { city: 'Oslo', degrees: 18 });
      assert.equal(upstream.calls.at(-1).body.response_format.json_schema.name, 'weather');
    });

    test('parse, streamed', async () => {
      const stream = client.chat.completions.stream({
        model: agent,
        messages: user('json'),
        response_format: zodResponseFormat(Weather, 'weather'),
      });
      const final = await stream.finalChatCompletion();
      assert.deepEqual(final.choices[0].message.parsed, { city: 'Oslo', degrees: 18 });
    });

    test('sessions', async () => {
      const first = await ask('echo one');
      const second = await ask('echo two', { session_id: first.session_id });
      assert.equal(second.session_id, first.session_id);
      await ask('echo three', {}, { headers: { 'X-Session-Id': first.session_id } });
      const conversation = ['one', 'two', 'three'].flatMap((word) => [
        ['user', `echo ${word}`],
        ['assistant', word],
      ]);
      assert.deepEqual(said(), conversation.slice(0, -1));

      // The whole conversation again: the server knows it.
      const messages = conversation.map(([role, content]) => ({ role, content }));
      const { response } = await client.chat.completions
        .create({ model: agent, messages: [...messages, ...user('echo four')], session_id: first.session_id })
        .withResponse();
      assert.equal(response.headers.get('x-history-matched'), '6');
      assert.deepEqual(said(), [...conversation, ['user', 'echo four']]);
    });

    test('models', async () => {
      const models = [];
      for await (const model of client.models.list()) models.push(model.id);
      assert(models.includes(agent));
      assert.equal((await client.models.retrieve(agent)).owned_by, server.info.account_id);
      await assert.rejects(client.models.retrieve('ag_00000000_0000'), openai.NotFoundError);
    });

    const failing = (content, more) => () => ask(content, more);
    const as = (key) => () =>
      connect({ apiKey: key() }).chat.completions.create({ model: agent, messages: user('plain') });
    const archived = async () => {
      const { session_id } = await ask('plain');
      await server.account('PATCH', `/v2/sessions/${session_id}`, { status: 'archived' });
      return ask('plain', { session_id });
    };
    const mismatch = async () => {
      const options = { headers: { 'Idempotency-Key': `mismatch ${VERSION}` } };
      await ask('plain once', {}, options);
      return ask('plain twice', {}, options);
    };
    const errors = [
      ['BadRequestError', 400, undefined, () => ask('plain', { messages: [] })],
      ['BadRequestError', 400, undefined, failing('status 400')],
      ['AuthenticationError', 401, 'invalid_api_key', as(() => 'sk-unknown')],
      ['PermissionDeniedError', 403, 'key_scope', as(() => server.info.operator_token)],
      ['NotFoundError', 404, 'model_not_found', failing('plain', { model: 'ag_00000000_0000' })],
      ['APIError', 405, 'method_not_allowed', () => client.chat.completions.list()],
      ['APIError', 410, 'session_closed', archived],
      ['APIError', 415, 'unsupported_media_type', () => ask('plain', {}, { headers: { 'Content-Type': 'text/plain' } })],
      ['UnprocessableEntityError', 422, 'idempotency_mismatch', mismatch],
      ['NotFoundError', 404, 'not_found', () => client.embeddings.create({ model: 'x', input: 'y' })],
      ['APIError', 413, 'request_too_large', failing('x'.repeat(21_000_000))],
      ['InternalServerError', 502, 'upstream_auth', failing('status 401')],
      ['InternalServerError', 502, 'upstream_refused', failing('status 500', { stream: true })],
      ['InternalServerError', 503, undefined, failing('status 429')],
    ];
    for (const [kind, status, code, act] of errors) {
      test(`${status} ${code ?? ''} is ${kind}`, async () => {
        await assert.rejects(act, (error) => {
          assert(error instanceof openai[kind], `${error.constructor.name}: ${error.message}`);
          assert.equal(error.status, status);
          if (code) assert.equal(error.code, code);
          assert.match(error.requestID, /^req_/);
          return true;
        });
      });
    }

    test('402 is not retried', async () => {
      const { apiKey, model } = await server.tenant({ balance: '0.00001' });
      let requests = 0;
      const counting = (...request) => {
        requests += 1;
        return fetch(...request);
      };
      const poor = connect({ apiKey, maxRetries: 3, fetch: counting });
      const call = poor.chat.completions.create({ model, messages: user('plain'), max_tokens: 1000, stream: true });
      await assert.rejects(call, { status: 402, code: 'insufficient_balance', type: 'insufficient_quota' });
      assert.equal(requests, 1);
    });

    test('429 says when to come back', async () => {
      const { apiKey, model } = await server.tenant({ balance: '1.00', limits: { requests_per_minute: 1 } });
      const limited = connect({ apiKey });
      await limited.chat.completions.create({ model, messages: user('plain') });
      await assert.rejects(limited.chat.completions.create({ model, messages: user('plain') }), (error) => {
        assert(error instanceof openai.RateLimitError);
        const wait = Number(error.headers.get('retry-after'));
        return wait >= 1 && wait <= 60;
      });
    });

    test('failure in mid-stream', async () => {
      let text = '';
      await assert.rejects(
        async () => {
          for await (const chunk of await ask('fail', { stream: true })) {
            text += chunk.choices[0].delta.content ?? '';
            assert.equal(chunk.choices[0].finish_reason, null);
          }
        },
        (error) => error instanceof openai.APIError && error.status === undefined,
      );
      assert.equal(text, 'Hello from');
    });

    /** The provider's call has ended, and the turn is charged for the two words at most. */
    async function checkCancelled(prompt, completionId) {
      await upstream.about(prompt)[0].left;
      const [charge] = await until(async () => {
        const charges = await server.charges(completionId);
        return charges.length && charges;
      }, 'the cancelled turn is settled');
      assert(charge.output_tokens >= 1 && charge.output_tokens <= 'Hello from'.length, charge.output_tokens);
    }

    test('abort ends the provider call', async () => {
      const prompt = `hold abort ${VERSION}`;
      const controller = new AbortController();
      const stream = await ask(prompt, { stream: true }, { signal: controller.signal });
      let id;
      for await (const chunk of stream) {
        id = chunk.id;
        if (chunk.choices[0].delta.content === ' from') controller.abort();
      }
      await checkCancelled(prompt, id);
    });

    test('leaving the loop ends the provider call', async () => {
      const prompt = `hold leave ${VERSION}`;
      let id;
      for await (const chunk of await ask(prompt, { stream: true })) {
        id = chunk.id;
        if (chunk.choices[0].delta.content === ' from') break;
      }
      await checkCancelled(prompt, id);
    });

    test('abort of a plain call ends the provider call', async () => {
      const prompt = `hold plain ${VERSION}`;
      const controller = new AbortController();
      const call = ask(prompt, {}, { signal: controller.signal });
      const rejected = assert.rejects(call, openai.APIUserAbortError);
      await until(() => upstream.about(prompt).length, 'the call reaches the provider');
      controller.abort();
      await rejected;
      await upstream.about(prompt)[0].left;
    });
  });
}
