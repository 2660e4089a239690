// The child's half for Node: forked by parent.mjs, or by `fork-ipc node child.mjs`.
process.on('message', (message) => {
  console.log('Message from parent:', message);
  process.send({ foo: 'bar' });
});
