// A child of `fork-ipc`, under Node, Bun or Deno:
//   child.mjs MESSAGES stay|disconnect
// Prints the parent's message as JSON, answers with each message of the JSON file, and then waits
// until the parent disconnects, or disconnects first.
import { readFileSync } from 'node:fs';

const [file, then] = process.argv.slice(2);
const messages = JSON.parse(readFileSync(file, 'utf8'));

process.on('message', (message) => {
  console.log(JSON.stringify(message));
  let unsent = messages.length;
  const sent = () => {
    unsent -= 1;
    if (unsent === 0 && then === 'disconnect') process.disconnect();
  };
  for (const answer of messages) process.send(answer, sent);
});
