// A scripted OpenAI-compatible provider. The first word of the last message says what it does; see `scripts`.

import { once } from 'node:events';
import { createServer } from 'node:http';

export const WORDS = ['Hello', ' from', ' the', ' model.'];
export const TEXT = WORDS.join('');
export const PROMPT_TOKENS = 10;

const envelope = (object) => ({ id: 'chatcmpl-upstream', object, created: 1700000000, model: 'secret-model-name' });
const usage = (output) => ({
  prompt_tokens: PROMPT_TOKENS,
  completion_tokens: output,
  total_tokens: PROMPT_TOKENS + output,
});

/** A message's text, be it a string or in parts. */
function textOf({ content }) {
  return Array.isArray(content) ? content.map(({ text }) => text ?? '').join('') : (content ?? '');
}

/** One request that reached the provider, and the means to answer it. */
class Call {
  constructor(request, response, body) {
    Object.assign(this, { request, response, body });
    this.last = body.messages.at(-1);
    this.prompt = textOf(this.last);
    this.left = once(response, 'close'); // the answer is over, or the caller is gone
  }

  /** Who spoke, without the instructions. */
  get roles() {
    return this.body.messages.map(({ role }) => role).filter((role) => role !== 'system');
  }

  /** Role and text of each message, without the instructions. */
  get said() {
    return this.body.messages.filter(({ role }) => role !== 'system').map((message) => [message.role, textOf(message)]);
  }

  json(status, value) {
    this.response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(value));
  }

  open() {
    this.response.writeHead(200, { 'content-type': 'text/event-stream' });
    this.delta({ role: 'assistant', content: '' });
  }

  event(value) {
    this.response.write(`data: ${typeof value === 'string' ? value : JSON.stringify(value)}\n\n`);
  }

  delta(delta, finish_reason = null) {
    this.event({ ...envelope('chat.completion.chunk'), choices: [{ index: 0, delta, finish_reason, logprobs: null }] });
  }

  close(finish, output) {
    this.delta({}, finish);
    if (this.body.stream_options?.include_usage) {
      this.event({ ...envelope('chat.completion.chunk'), choices: [], usage: usage(output) });
    }
    this.event('[DONE]');
    this.response.end();
  }

  /** One choice in the form that was asked for; a token for each piece. */
  answer(pieces, finish = 'stop', tool_calls = undefined) {
    if (!this.body.stream) {
      const content = pieces.length ? pieces.join('') : null;
      const message = { role: 'assistant', content, refusal: null, tool_calls };
      const choices = [{ index: 0, message, finish_reason: finish, logprobs: null }];
      this.json(200, { ...envelope('chat.completion'), choices, usage: usage(pieces.length) });
      return;
    }
    this.open();
    for (const content of pieces) this.delta({ content });
    tool_calls?.forEach((call, index) => {
      const { name, arguments: text } = call.function;
      this.delta({ tool_calls: [{ ...call, index, function: { name, arguments: '' } }] });
      this.delta({ tool_calls: [{ index, function: { arguments: text.slice(0, 4) } }] });
      this.delta({ tool_calls: [{ index, function: { arguments: text.slice(4) } }] });
    });
    this.close(finish, pieces.length);
  }
}

const lookup = (_, n) => ({
  id: `call_${n}`,
  type: 'function',
  function: { name: 'lookup', arguments: '{"q": "tea"}' },
});

const scripts = {
  plain: (call) => call.answer(WORDS),
  echo: (call, ...words) => call.answer([words.join(' ')]),
  json: (call) => call.answer(['{"city":', ' "Oslo",', ' "degrees":', ' 18}']),
  tools: (call, count = '1') => call.answer([], 'tool_calls', Array.from({ length: Number(count) }, lookup)),
  status: (call, code) => call.json(Number(code), { error: { message: `refused with ${code}`, type: 'x', code: null } }),
  // Two words, then an error event. Only for streams.
  fail(call) {
    scripts.hold(call);
    call.event({ error: { message: 'the model broke', type: 'server_error', param: null, code: null } });
    call.response.end();
  },
  // Two words (of a stream), then nothing.
  hold(call) {
    if (!call.body.stream) return;
    call.open();
    WORDS.slice(0, 2).forEach((content) => call.delta({ content }));
  },
};

/** Listens on 127.0.0.1 and remembers every call. */
export async function startUpstream() {
  const calls = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += piece;
    const call = new Call(request, response, JSON.parse(body));
    calls.push(call);
    if (call.last.role === 'tool') {
      const said = call.body.messages.filter(({ role }) => role === 'tool').map(({ content }) => content);
      call.answer(['The tool said: ', said.join(', ')]);
    } else {
      const [word, ...rest] = call.prompt.split(' ');
      (scripts[word] ?? scripts.plain)(call, ...rest);
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}/v1`,
    calls,
    about: (prompt) => calls.filter((call) => call.prompt === prompt),
    stop() {
      server.close();
      server.closeAllConnections();
    },
  };
}
