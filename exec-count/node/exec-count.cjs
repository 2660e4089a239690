// The same program for Node: node exec-count/node/exec-count.cjs [COMMAND]
const { exec } = require('child_process');

const [command = 'find . -type f | wc -l'] = process.argv.slice(2);

exec(command, (error, stdout, stderr) => {
  if (error) {
    console.error(`exec error: ${error}`);
    return;
  }
  console.log(`Number of files: ${stdout}`);
});
