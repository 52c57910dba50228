"""One round of the hosted workers: a method on blocks of columns, with what is posted, compiled or absent."""
