mod files;
mod messages;
mod shapes;
