// The examples of the README and of the guide are run as they stand, and print what is shown.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Cluster, ROOT } from './cluster.js';

const DOCUMENTS = ['clients/javascript/README.md', 'docs/guides/javascript.md'];
/** Where `pubsub-client` is found from. */
const HERE = dirname(fileURLToPath(import.meta.url));

/** @type {Cluster} */
let cluster;
before(async () => {
  cluster = await Cluster.start();
});
after(() => cluster?.close());

/** Returns the JavaScript blocks of a document; a text block right behind one is what it prints. */
function examples(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)) {
    const [whole, language, body] = match;
    if (language === 'js') {
      found.push({ line: text.slice(0, match.index).split('\n').length + 1, code: body, shown: '' });
    } else if (language === 'text' && found.length > 0 && text.slice(end, match.index).trim() === '') {
      found.at(-1).shown = body;
    }
    end = match.index + whole.length;
  }
  return found;
}

/** Compares; `<anything>` stands for one or more characters of a line. */
function fits(shown, printed) {
  const parts = shown.trim().split(/<[^<>\n]+>/).map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return new RegExp(`^${parts.join('.+')}$`).test(printed.trim());
}

/** Runs a program beside this file, and returns what it printed. */
async function run(code) {
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], { cwd: HERE, timeout: 60_000 });
  const printed = { stdout: '', stderr: '' };
  for (const name of Object.keys(printed)) child[name].setEncoding('utf8').on('data', (data) => (printed[name] += data));
  const status = await new Promise((done) => child.on('close', done));
  return { status, ...printed };
}

test('shown text fits what was printed and nothing else', () => {
  assert.ok(fits('at <time> by me\n', 'at 5 by me'));
  assert.ok(!fits('at <time>', 'at '));
  assert.ok(!fits('5', '5\n6'));
});

for (const document of DOCUMENTS) {
  test(`examples of ${document} do what is shown`, { timeout: 120_000 }, async () => {
    const found = examples(readFileSync(join(ROOT, document), 'utf8'));
    assert.ok(found.length > 0);
    for (const { line, code, shown } of found) {
      const addressed = cluster.urls.reduce((text, url, index) => text.replaceAll(`http://127.0.0.1:${8081 + index}`, url), code);
      const { status, stdout, stderr } = await run(addressed);
      assert.equal(status, 0, `${document}:${line}\n${stderr}`);
      assert.ok(fits(shown, stdout), `${document}:${line}\nshown: ${shown}\nprinted: ${stdout}`);
    }
  });
}
