import { cleanup, configure } from "@testing-library/react";
import { afterEach } from "vitest";

// what was looked for is enough; a failure need not print the page
configure({ getElementError: (message) => new Error(message ?? "") });

afterEach(cleanup);
