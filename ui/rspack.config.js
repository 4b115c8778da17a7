// Numbers in the order of use: by default they come from absolute paths too, and each machine would build other files.
module.exports = {
  optimization: { moduleIds: 'natural', chunkIds: 'natural' }
};
