// A Node program that forks a Rust program, asks it three things at once, and prints the answers:
//   server.mjs PROGRAM
import { fork } from 'node:child_process';

const child = fork('argument', [], { execPath: process.argv[2], execArgv: [] });
const waiting = new Map();
let next = 0;

function ask(request) {
  return new Promise((resolve) => {
    const id = next++;
    waiting.set(id, resolve);
    child.send({ id, ...request });
  });
}

child.on('message', ({ id, result }) => waiting.get(id)(result));

const answers = await Promise.all([
  ask({ type: 'fibonacci', nth: 50 }),
  ask({ type: 'letters', text: 'zwölf Boxkämpfer'.slice(0, 11) }),
  ask({ type: 'fibonacci', nth: 10 }),
]);
console.log(answers);
child.disconnect();
