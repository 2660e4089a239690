// Prints each message of a JSON file as console.log does, but on one line:
//   inspect.mjs MESSAGES
import { readFileSync } from 'node:fs';
import { inspect } from 'node:util';

const oneLine = {
  breakLength: Infinity,
  compact: true,
  maxArrayLength: null,
  maxStringLength: null,
};
for (const message of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  console.log(typeof message === 'string' ? message : inspect(message, oneLine));
}
