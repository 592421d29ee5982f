/** Entry: styles, then the app into the page. */
import { render } from "preact";
import "./styles/index.css";
import { App } from "./components/App";

render(<App />, document.getElementById("root")!);
