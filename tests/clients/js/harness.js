// Starts the real binary as a user's script would, and talks to its management API.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

const PATIENCE = 30_000; // only a failing test waits that long

/** Waits for `condition` to be true and returns its value. */
export async function until(condition, what) {
  for (const deadline = Date.now() + PATIENCE; ; await pause(10)) {
    const value = await condition();
    if (value) return value;
    assert(Date.now() < deadline, `still not so after ${PATIENCE} ms: ${what}`);
  }
}

function cleanEnvironment() {
  const configures = (name) => /^(OPENAI|SWITCHBOARD)_|_proxy$/i.test(name);
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !configures(name)));
}

export async function startSwitchboard(upstream) {
  const binary = process.env.SWITCHBOARD_BIN;
  assert(binary && existsSync(binary), 'SWITCHBOARD_BIN must name the built server');
  const directory = mkdtempSync(join(tmpdir(), 'switchboard-'));
  const bootstrap = join(directory, 'bootstrap.json');
  const log = join(directory, 'log.txt');
  const output = openSync(log, 'w');
  const options = {
    '--listen': '127.0.0.1:0',
    '--data': join(directory, 'data'),
    '--bootstrap-json': bootstrap,
    '--provider-url': upstream.url,
    '--provider-key': 'provider-secret',
    '--provider-model': 'test-model',
    '--default-limits': 'none',
  };
  // Tests ask often for a failure in a row, and for each of them once.
  writeFileSync(join(directory, 'switchboard.toml'), 'provider_retries = 0\nbreaker = { min_calls = 1000000 }\n');
  const child = spawn(binary, ['serve', ...Object.entries(options).flat()], {
    cwd: directory,
    env: cleanEnvironment(),
    stdio: ['ignore', output, output],
  });
  const exit = once(child, 'exit');
  await until(() => existsSync(bootstrap) || child.exitCode !== null, 'the server is ready');
  assert.equal(child.exitCode, null, `the server ended early:\n${readFileSync(log, 'utf8')}`);
  const info = JSON.parse(readFileSync(bootstrap, 'utf8'));

  async function call(key, method, path, body) {
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' };
    const answer = await fetch(info.url.replace(/\/$/, '') + path, { method, headers, body: body && JSON.stringify(body) });
    const text = await answer.text();
    assert(answer.ok, `${method} ${path}: ${answer.status} ${text}`);
    return text && JSON.parse(text);
  }

  const account = (...request) => call(info.account_key, ...request);
  const admin = (...request) => call(info.operator_token, ...request);
  return {
    info,
    baseURL: `${info.url.replace(/\/$/, '')}/v1`,
    account,
    admin,
    call,
    /** A new account with an agent: its key and the agent's id. */
    async tenant(settings) {
      const { key } = await admin('POST', '/admin/accounts', { name: 'tenant', ...settings });
      const { id } = await call(key, 'POST', '/v2/agents', { name: 'a', model: 'test-model' });
      return { apiKey: key, model: id };
    },
    async charges(completionId) {
      const { transactions } = await account('GET', '/v2/billing/transactions?limit=100');
      return transactions.filter((row) => row.kind === 'charge' && row.completion_id === completionId);
    },
    /** The end of every test server: clean books, then a clean exit. */
    async finish() {
      let report;
      try {
        report = await admin('GET', '/admin/ledger/verify');
      } finally {
        child.kill('SIGTERM');
      }
      const [code, signal] = await exit;
      assert.equal(report.ok, true, JSON.stringify(report));
      assert.equal(code, 0, `exit ${code ?? signal}:\n${readFileSync(log, 'utf8')}`);
      rmSync(directory, { recursive: true });
    },
  };
}
