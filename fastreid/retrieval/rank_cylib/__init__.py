"""The compiled half of rank evaluation (rank_cy.pyx), built at install where a compiler exists."""
