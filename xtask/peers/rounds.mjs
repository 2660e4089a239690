// A Node parent over a child, for the bench: rounds.mjs CHILD turns|stream COUNT
// Sends so many messages, each after the last one's answer or all at once, and prints how
// many seconds it took until all were answered.
import { fork } from 'node:child_process';

const [script, how, count] = process.argv.slice(2);
const child = fork(script, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] });

let answers = -1;
let start;
child.on('message', () => {
  answers += 1;
  if (answers === 0) {
    // The first shows that the child is up.
    start = process.hrtime.bigint();
    const atOnce = how === 'stream' ? Number(count) : 1;
    for (let i = 0; i < atOnce; i++) child.send({ hello: 'world' });
  } else if (answers === Number(count)) {
    console.log(Number(process.hrtime.bigint() - start) / 1e9);
    child.disconnect();
  } else if (how === 'turns') {
    child.send({ hello: 'world' });
  }
});
child.send({ hello: 'world' });
