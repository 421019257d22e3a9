//! Names, numbers and what is given to a process.
