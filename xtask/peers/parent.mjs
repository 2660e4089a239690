// A parent of `fork-ipc child`, under Node, Bun or Deno:
//   parent.mjs fork|spawn PROGRAM MESSAGES
// Sends each message of the JSON file, and disconnects after as many answers. Prints the number of
// answers that are { foo: 'bar' }, the other answers, and how the child ended.
import { fork, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

const [how, program, file] = process.argv.slice(2);
const messages = JSON.parse(readFileSync(file, 'utf8'));
const child =
  how === 'fork'
    ? fork('child', [], { execPath: program, execArgv: [] })
    : spawn(program, ['child'], { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });

let answers = 0;
const others = [];
child.on('message', (message) => {
  if (JSON.stringify(message) === '{"foo":"bar"}') answers += 1;
  else others.push(message);
  if (answers + others.length === messages.length) child.disconnect();
});
child.on('exit', (code, signal) => {
  console.log(JSON.stringify({ answers, others, code, signal }));
});

for (const message of messages) child.send(message);
