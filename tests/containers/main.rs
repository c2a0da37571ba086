//! The real images under a real container engine: checked through the public API, and from outside (the engine, `/proc`,
//! cgroup files). Each item that is proven is printed with the value that was read outside. One stack at a time; whatever
//! a test starts has its own prefix and ends with its guard.
mod compose;
mod engine;
mod lives;
mod night;
mod recreated;
mod stack;
mod team;
mod walls;
