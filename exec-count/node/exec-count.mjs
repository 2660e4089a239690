// The same program for Node: node exec-count/node/exec-count.mjs [COMMAND]
import { exec } from 'node:child_process';

const [command = 'find . -type f | wc -l'] = process.argv.slice(2);

const child = exec(command, (error, stdout, stderr) => {
  if (error) {
    console.error(`exec error: ${error}`);
    return;
  }
  console.log(`Number of files: ${stdout}`);
});
child.stdin.end();
