// The same program for Node: node spawn-ls/node/spawn-ls.mjs [COMMAND [ARG]...]
import { spawn } from 'node:child_process';

const words = process.argv.slice(2);
const [command, ...args] = words.length > 0 ? words : ['ls', '-lh', '/usr'];

const ls = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] });

ls.stdout.on('data', (data) => {
  console.log(`stdout: ${data}`);
});

ls.stderr.on('data', (data) => {
  console.error(`stderr: ${data}`);
});

ls.on('close', (code) => {
  console.log(`child process exited with code ${code}`);
});
