// A child that measures words for `node_backend`, some later than others. Some words make it fail,
// and to one it never answers.
process.on('message', ({ id, word }) => {
  if (word === 'exit') process.exit();
  if (word === 'never') return console.error('no answer yet');
  if (word === 'wrong') return process.send({ id, result: 'no measure' });
  if (word === 'odd') process.send('no answer');
  const result =
    word === 'slow' ? { type: 'ratio', value: 1 / word.length } : { type: 'length', value: word.length };
  setTimeout(() => process.send({ id, result }), word === 'slow' ? 500 : 0);
});
