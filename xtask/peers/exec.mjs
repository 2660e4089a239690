// Runs commands, some at the same time, and prints how many seconds they took: `exec.mjs COUNT AT_ONCE`.
import { exec } from 'node:child_process';
import { promisify } from 'node:util';

const [count, atOnce] = process.argv.slice(2).map(Number);
const run = async () => {
  for (let i = 0; i < count / atOnce; i++) {
    await promisify(exec)(':');
  }
};
const began = performance.now();
await Promise.all(Array.from({ length: atOnce }, run));
console.log((performance.now() - began) / 1000);
