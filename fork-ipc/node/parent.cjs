// The same program for Node: node fork-ipc/node/parent.cjs [COMMAND [ARG]...]
const { fork, spawn } = require('child_process');

const [command, ...args] = process.argv.slice(2);
const child = command
  ? spawn(command, args, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] })
  : fork(`${__dirname}/child.cjs`);

child.on('message', (message) => {
  console.log('Message from child:', message);
  // Without this, both processes would wait for ever.
  if (child.connected) child.disconnect();
});

child.send({ hello: 'world' });
