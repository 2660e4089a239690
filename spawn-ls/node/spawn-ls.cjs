// The same program for Node: node spawn-ls/node/spawn-ls.cjs [COMMAND [ARG]...]
const { spawn } = require('child_process');

const [command, ...args] = process.argv.length > 2 ? process.argv.slice(2) : ['ls', '-lh', '/usr'];

const ls = spawn(command, args);

ls.stdout.on('data', (data) => {
  console.log(`stdout: ${data}`);
});

ls.stderr.on('data', (data) => {
  console.error(`stderr: ${data}`);
});

ls.on('close', (code) => {
  console.log(`child process exited with code ${code}`);
});
