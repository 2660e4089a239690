// The child's half for Node: forked by parent.cjs, or by `fork-ipc node child.cjs`.
process.on('message', (message) => {
  console.log('Message from parent:', message);
  process.send({ foo: 'bar' });
});
