// The same program for Node: node fork-ipc/node/parent.mjs [COMMAND [ARG]...]
import { fork, spawn } from 'node:child_process';

const [command, ...args] = process.argv.slice(2);
const child =
  command === undefined
    ? fork(new URL('child.mjs', import.meta.url))
    : spawn(command, args, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] });

child.on('message', (message) => {
  console.log('Message from child:', message);
  if (child.connected) child.disconnect();
});

child.send({ hello: 'world' });
