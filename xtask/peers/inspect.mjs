// Prints each message of a JSON file as the document's parent does, each with a separator after it:
//   inspect.mjs MESSAGES
import { readFileSync } from 'node:fs';

for (const message of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  console.log('Message from child:', message);
  console.log('\x1e');
}
