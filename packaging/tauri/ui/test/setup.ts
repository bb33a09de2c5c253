import { cleanup, configure } from "@testing-library/react";
import { afterEach } from "vitest";

// what was looked for is enough, a failure need not print the page; and a busy machine is no failure
configure({ getElementError: (message) => new Error(message ?? ""), asyncUtilTimeout: 20_000 });

afterEach(cleanup);
