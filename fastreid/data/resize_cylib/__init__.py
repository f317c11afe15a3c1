"""The compiled half of resizing (resize_cy.pyx), built at install where a compiler exists."""
