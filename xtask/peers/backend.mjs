// A child that measures words for `node_backend`, some later than others.
process.on('message', ({ id, word }) => {
  if (word === 'exit') process.exit();
  const result =
    word === 'slow' ? { type: 'ratio', value: 1 / word.length } : { type: 'length', value: word.length };
  setTimeout(() => process.send({ id, result }), word === 'slow' ? 500 : 0);
});
